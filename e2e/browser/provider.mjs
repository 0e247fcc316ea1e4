// A certified OpenID provider for the tests: it listens on a port of its own,
// says where on standard output, and ends with its standard input. /counts and
// /grants/end are for the tests; the rest is oidc-provider as it comes.
import http from 'node:http';
import { Provider, interactionPolicy } from 'oidc-provider';

const app = process.env.APP_URL;
const accessTokenSeconds = Number(process.env.ACCESS_TOKEN_SECONDS ?? 3600);
const server = http.createServer();
await new Promise((listening) => server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

// How the client proves itself: by a secret, or by a key of which the provider has
// the public part.
const proof = process.env.CLIENT_JWKS
  ? { jwks: JSON.parse(process.env.CLIENT_JWKS), token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256' }
  : { client_secret: 'a-secret-of-the-shop/with+odd:characters', token_endpoint_auth_method: 'client_secret_basic' };

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'shop',
    ...proof,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: [`${app}/oauth2/callback`],
    post_logout_redirect_uris: [`${app}/open/bye`],
    backchannel_logout_uri: `${app}/oauth2/backchannel-logout`,
    backchannel_logout_session_required: true,
  }],
  cookies: { keys: ['only for tests'] },
  pkce: { required: () => true },
  claims: { openid: ['sub', 'tenant'], profile: ['name'] },
  conformIdTokenClaims: false,
  scopes: ['openid', 'profile', 'offline_access'],
  clientAuthMethods: ['client_secret_basic', 'private_key_jwt'],
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    revocation: { enabled: true },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, tenant: 'demo', name: `${id} of the tests` }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: () => true, // a second use of one ends the grant
  // Consent is not what is tested.
  loadExistingGrant: async (ctx) => {
    const id = ctx.oidc.result?.consent?.grantId || ctx.oidc.session.grantIdFor(ctx.oidc.client.clientId);
    if (id) return ctx.oidc.provider.Grant.find(id);
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope('openid profile offline_access');
    await grant.save();
    return grant;
  },
  interactions: { policy: interactionPolicy.base() },
  ttl: { AccessToken: accessTokenSeconds, IdToken: 3600, RefreshToken: 86400, Session: 86400, Grant: 86400, Interaction: 600 },
  // By itself it calls no loopback address, as is right elsewhere.
  fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
});

const counts = { refresh: 0, code: 0, refused: 0, backchannel: 0, backchannelFailed: 0 };
provider.on('grant.success', (ctx) => { counts[ctx.oidc.params.grant_type === 'refresh_token' ? 'refresh' : 'code'] += 1; });
provider.on('grant.error', (ctx, error) => { counts.refused += 1; console.error('grant.error', error.message, error.error_detail); });
provider.on('backchannel.success', () => { counts.backchannel += 1; });
provider.on('backchannel.error', (_, error) => { counts.backchannelFailed += 1; console.error('backchannel.error', error); });
provider.on('server_error', (_, error) => console.error('server_error', error));

const serve = provider.callback();
server.on('request', (request, response) => {
  if (request.url === '/counts') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(counts));
    return;
  }
  serve(request, response);
});
console.log(JSON.stringify({ issuer }));
process.stdin.on('end', () => process.exit(0)).resume();
