// A certified provider that is asked about tokens: it signs what it says (RFC 9701),
// and its client proves itself by a key (RFC 7523). It listens on a port of its own,
// says where on standard output, and ends with its standard input.
import http from 'node:http';
import { Provider } from 'oidc-provider';

const server = http.createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
const plain = { redirect_uris: [], response_types: [] };

const provider = new Provider(issuer, {
  clients: [
    { client_id: 'robot', client_secret: 'only-for-tests', grant_types: ['client_credentials'], ...plain },
    {
      client_id: 'edge', grant_types: [], ...plain,
      jwks: JSON.parse(process.env.CLIENT_JWKS), token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: process.env.CLIENT_ALG,
      introspection_signed_response_alg: process.env.ANSWER_ALG,
    },
  ],
  clientAuthMethods: ['client_secret_basic', 'private_key_jwt'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    jwtIntrospection: { enabled: true },
    revocation: { enabled: true },
  },
});
provider.on('introspection.error', (_, error) => console.error('introspection.error', error.message, error.error_detail));
provider.on('server_error', (_, error) => console.error('server_error', error));
server.on('request', provider.callback());
console.log(JSON.stringify({ issuer }));
process.stdin.on('end', () => process.exit(0)).resume();
