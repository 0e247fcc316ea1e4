// People log in through Weir with a real browser, at a certified provider.
// TestSlowLogin starts all that this needs and says where it is:
//   APP_URL   the ingress, by a name that browsers hold to be another site than
//             the provider
//   POLICY    the policy file that holds the session keys, to rotate them
//   CHROMIUM  the browser
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { chromium } from 'playwright-core';

const app = process.env.APP_URL;
const accessTokenSeconds = 8;
const template = fs.readFileSync(process.env.TEMPLATE, 'utf8');
const keys = [randomBytes(32).toString('base64')];
let provider, issuer, browser, revision = 0;

// startProvider runs the provider on a port, 0 for any.
async function startProvider(port = 0) {
  provider = spawn(process.execPath, [path.join(path.dirname(fileURLToPath(import.meta.url)), 'provider.mjs')], {
    env: { ...process.env, PORT: String(port), ACCESS_TOKEN_SECONDS: String(accessTokenSeconds), NODE_NO_WARNINGS: '1' },
    stdio: ['pipe', 'pipe', process.env.VERBOSE ? 'inherit' : 'ignore'],
  });
  issuer = await new Promise((resolve, reject) => {
    let text = '';
    provider.once('exit', () => reject(new Error('the provider ended')));
    provider.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      const line = text.split('\n').find((one) => one.startsWith('{'));
      if (line) resolve(JSON.parse(line).issuer);
    });
  });
}

async function stopProvider() {
  const ended = new Promise((resolve) => provider.once('exit', resolve));
  provider.kill('SIGKILL');
  await ended;
}

const counts = async () => (await fetch(`${issuer}/counts`)).json();

// policy writes the policy with these keys, and waits until the ingress serves it:
// a response header tells, since routes never come before their rules.
async function policy(sessionKeys) {
  revision += 1;
  const text = template.replaceAll('ISSUER', issuer).replaceAll('REVISION', `r${revision}`)
    .replaceAll('SESSION_KEYS', sessionKeys.join('\\n'));
  fs.writeFileSync(`${process.env.POLICY}.tmp`, text);
  fs.renameSync(`${process.env.POLICY}.tmp`, process.env.POLICY);
  await until(async () => (await call('/shop/')).headers['x-revision'] === `r${revision}` || (await call('/open/')).headers['x-revision'] === `r${revision}`);
}

async function until(condition, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `waited ${seconds} s for ${condition}`);
    await pause(50);
  }
}

// call is a request of a program: nothing is followed, no cookie kept.
function call(target, { method = 'GET', headers = {}, body } = {}) {
  return new Promise((resolve, reject) => {
    const url = new URL(target, app);
    const request = http.request({ host: '127.0.0.1', port: url.port, path: url.pathname + url.search, method, headers: { host: url.host, ...headers } }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => { text += chunk; }).on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
    });
    request.on('error', reject).end(body);
  });
}

const cookieHeader = async (context) => (await context.cookies(app)).map(({ name, value }) => `${name}=${value}`).join('; ');

// visit opens a page as a person would.
async function visit(page, target) {
  const response = await page.goto(app + target);
  return response;
}

// logIn goes to a page and logs in on the way.
async function logIn(context, target = '/shop/page?x=1', who = 'alice') {
  const page = await context.newPage();
  await visit(page, target);
  assert.ok(page.url().startsWith(issuer), `sent to the provider, not ${page.url()}`);
  await page.fill('input[name=login]', who);
  await page.fill('input[name=password]', 'any');
  await Promise.all([page.waitForURL(app + target), page.click('button[type=submit]')]);
  return page;
}

const seen = async (page) => JSON.parse(await page.evaluate(() => document.body.innerText));

// fetched is what a script of the page gets.
const fetched = (page, target = '/shop/api') => page.evaluate(async (at) => {
  const response = await fetch(at, { headers: { accept: 'application/json' } });
  return { status: response.status, body: await response.text(), url: response.url };
}, target);

const newContext = async () => { const context = await browser.newContext(); context.setDefaultTimeout(15000); return context; };

before(async () => {
  await startProvider();
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1'] });
  await policy(keys);
});

after(async () => {
  await browser?.close();
  provider?.kill('SIGKILL');
});

test('a person logs in and gets to the page asked for', async () => {
  const context = await newContext();
  await context.addCookies([{ name: 'theirs', value: 'kept', url: app }]);
  const page = await logIn(context);
  const got = await seen(page);
  assert.equal(got.Headers['X-Weir-Subject'][0], 'alice');
  assert.equal(got.Headers['X-Weir-Tenant'][0], 'demo');
  assert.equal(got.Headers.Cookie[0], 'theirs=kept', 'the service sees its own cookies only');
  assert.equal(got.Headers.Authorization, undefined, 'the service gets no token that it was not meant to get');
  const cookies = (await context.cookies(app)).filter(({ name }) => name.startsWith('__Host-'));
  assert.ok(cookies.length >= 1);
  for (const cookie of cookies) {
    assert.ok(cookie.secure && cookie.httpOnly && cookie.sameSite === 'Lax' && cookie.path === '/', JSON.stringify(cookie));
    assert.ok(!cookie.name.includes('.login.'), 'nothing is left of the login under way');
  }
  assert.equal((await fetched(page)).status, 200);
  await context.close();
});

test('programs are told, not redirected', async () => {
  const answer = await call('/shop/api', { headers: { accept: 'application/json' } });
  assert.equal(answer.status, 401);
  assert.match(answer.headers['www-authenticate'], /Session realm="weir", login="\/oauth2\/login"/);
  assert.match(answer.headers['www-authenticate'], /ApiKey/);
  assert.equal(answer.headers['content-type'], 'application/problem+json');
  const key = await call('/shop/api', { headers: { 'x-api-key': process.env.API_KEY } });
  assert.equal(key.status, 200, 'a key beside it works');
});

test('tabs that log in at the same time', async () => {
  const context = await newContext();
  const [first, second] = [await context.newPage(), await context.newPage()];
  await visit(first, '/shop/first');
  await visit(second, '/shop/second');
  for (const [page, target] of [[second, '/shop/second'], [first, '/shop/first']]) {
    if (await page.locator('input[name=login]').count()) {
      await page.fill('input[name=login]', 'alice');
      await page.fill('input[name=password]', 'any');
      await page.click('button[type=submit]');
    }
    await page.waitForURL(app + target);
    assert.equal((await seen(page)).Path, target);
  }
  await context.close();
});

test('a callback counts once, and in its own browser', async () => {
  const context = await newContext();
  let callback;
  context.on('request', (request) => { if (request.url().includes('/oauth2/callback')) callback = request.url(); });
  await logIn(context);
  assert.ok(callback);
  const page = await context.newPage();
  let response = await page.goto(callback);
  assert.equal(response.status(), 400, 'the login is over');
  assert.match(await page.innerText('body'), /Log in again/);
  assert.equal((await (await visit(page, '/shop/')).status()), 200, 'the session goes on');
  const stranger = await newContext();
  const theirs = await stranger.newPage();
  response = await theirs.goto(callback);
  assert.equal(response.status(), 400);
  assert.deepEqual((await stranger.cookies(app)).filter(({ name }) => name.startsWith('__Host-')), []);
  await Promise.all([context.close(), stranger.close()]);
});

test('nobody is sent elsewhere', async () => {
  for (const evil of ['https://evil.example/', '//evil.example', '/\\evil.example', '/%09/evil.example%00', 'javascript:alert(1)', '/oauth2/logout']) {
    const answer = await call(`/oauth2/login?return_to=${encodeURIComponent(evil)}`, { headers: { accept: 'text/html' } });
    if (evil.startsWith('/%09')) {
      assert.equal(answer.status, 302, 'escapes stay on the host');
      continue;
    }
    assert.equal(answer.status, 400, evil);
  }
  const context = await newContext();
  const page = await logIn(context);
  await page.goto(`${app}/oauth2/login?return_to=${encodeURIComponent('/shop/there?y=2')}`);
  assert.equal(page.url(), `${app}/shop/there?y=2`);
  await context.close();
});

test('tampered cookies are worth nothing', async () => {
  const context = await newContext();
  await logIn(context);
  const good = await cookieHeader(context);
  assert.equal((await call('/shop/api', { headers: { cookie: good } })).status, 200, 'the control');
  const at = good.length - 30;
  const bad = good.slice(0, at) + (good[at] === 'A' ? 'B' : 'A') + good.slice(at + 1);
  const answer = await call('/shop/api', { headers: { cookie: bad } });
  assert.equal(answer.status, 401);
  assert.match(answer.body, /SESSION_INVALID/);
  assert.equal((await call('/shop/api', { headers: { cookie: good }, method: 'POST' })).status, 200);
  const forged = await call('/shop/api', { headers: { cookie: good, origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }, method: 'POST' });
  assert.equal(forged.status, 403);
  assert.match(forged.body, /CROSS_ORIGIN/);
  await context.close();
});

test('many requests at expiry refresh once, and nobody is logged out', async () => {
  const context = await newContext();
  const page = await logIn(context);
  for (let round = 0; round < 2; round += 1) {
    const started = (await counts()).refresh;
    await pause((accessTokenSeconds + 1) * 1000); // the provider's clock is the real one
    const statuses = await page.evaluate(async () => Promise.all(Array.from({ length: 24 }, async (_, i) => (await fetch(`/shop/api?${i}`)).status)));
    assert.deepEqual(statuses, Array(24).fill(200));
    assert.equal((await counts()).refresh, started + 1, 'one refresh');
    assert.equal((await fetched(page)).status, 200);
  }
  assert.equal((await counts()).refused, 0, 'the provider saw no refresh token twice');
  await context.close();
});

test('logout ends the session here and at the provider', async () => {
  const context = await newContext();
  const page = await logIn(context);
  const stolen = await cookieHeader(context);
  await page.goto(`${app}/oauth2/logout`);
  assert.ok(page.url().startsWith(issuer), page.url());
  await Promise.all([page.waitForURL(`${app}/open/bye`), page.click('button[value=yes]')]);
  assert.equal((await call('/shop/api', { headers: { cookie: stolen } })).status, 401, 'a copy of the cookies is worth nothing');
  await visit(page, '/shop/');
  assert.ok(await page.locator('input[name=login]').count(), 'the provider asks for the password again');
  await context.close();
});

test('a logout at the provider ends the session here', async () => {
  const context = await newContext();
  const page = await logIn(context, '/shop/', 'bob');
  const other = await newContext();
  const theirs = await logIn(other, '/shop/', 'carol');
  assert.equal((await fetched(page)).status, 200);
  const before = await counts();
  const at = await context.newPage();
  await at.goto(`${issuer}/session/end`);
  await Promise.all([at.waitForURL(/session\/end\/success/), at.click('button[value=yes]')]);
  await until(async () => (await counts()).backchannel === before.backchannel + 1);
  assert.equal((await counts()).backchannelFailed, 0);
  assert.equal((await fetched(page)).status, 401);
  assert.equal((await fetched(theirs)).status, 200, 'others go on');
  await Promise.all([context.close(), other.close()]);
});

test('a forged logout token ends nothing', async () => {
  const context = await newContext();
  const page = await logIn(context, '/shop/', 'dave');
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const forged = `${part({ alg: 'none', typ: 'logout+jwt' })}.${part({ iss: issuer, aud: 'shop', sub: 'dave', iat: now, exp: now + 60, jti: 'x', events: { 'http://schemas.openid.net/event/backchannel-logout': {} } })}.`;
  const post = (body) => call('/oauth2/backchannel-logout', { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) }, body });
  const answer = await post(`logout_token=${forged}`);
  assert.equal(answer.status, 400);
  assert.match(answer.body, /LOGOUT_TOKEN_INVALID/);
  assert.equal(answer.headers['cache-control'], 'no-store');
  assert.equal((await post(`logout_token=${'x'.repeat(20_000)}`)).status, 413);
  assert.equal((await fetched(page)).status, 200);
  await context.close();
});

test('session keys are rotated while sessions live', async () => {
  const context = await newContext();
  const page = await logIn(context, '/shop/', 'erin');
  const [old] = keys;
  keys.unshift(randomBytes(32).toString('base64'));
  await policy(keys);
  assert.equal((await fetched(page)).status, 200, 'the older key still opens');
  const later = await newContext();
  const young = await logIn(later, '/shop/', 'frank');
  await policy([keys[0]]);
  assert.notEqual(keys[0], old);
  assert.equal((await fetched(young)).status, 200, 'the newer key seals');
  assert.equal((await fetched(page)).status, 401, 'the older key is gone');
  await visit(page, '/shop/');
  assert.equal(page.url(), `${app}/shop/`, 'the provider knows the person still: nobody has to type');
  await Promise.all([context.close(), later.close()]);
});

test('with the provider down, sessions last as long as its word', async () => {
  const context = await newContext();
  const page = await logIn(context, '/shop/', 'grace');
  const port = new URL(issuer).port;
  await stopProvider();
  assert.equal((await fetched(page)).status, 200, 'what it said still holds');
  await until(async () => (await fetched(page)).status === 503, accessTokenSeconds + 10);
  const cookies = await cookieHeader(context);
  assert.match(cookies, /__Host-/, 'the session is not lost');
  await startProvider(port); // with nothing remembered: it refuses the refresh token
  await until(async () => (await fetched(page)).status === 401);
  await visit(page, '/shop/');
  assert.ok(await page.locator('input[name=login]').count());
  await context.close();
});
