// A certified authorization server for the tests: client credentials, certificate-bound and DPoP-bound tokens,
// JWTs and opaque ones, introspection and revocation.
//
//   node server.mjs FOLDER PORT
//
// FOLDER has `server.crt`, `server.key` and `ca.crt`, and `clients.json`; the signing keys are kept in
// `signing.json`. A line `rotate` on standard input brings in a new signing key before the others.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const [folder, port] = process.argv.slice(2);
const issuer = `https://localhost:${port}`;
const file = (name) => `${folder}/${name}`;

function newKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: randomUUID() };
}

function signingKeys() {
  if (!existsSync(file('signing.json'))) writeFileSync(file('signing.json'), JSON.stringify([newKey()]));
  return JSON.parse(readFileSync(file('signing.json'), 'utf8'));
}

// What a token is for decides its form.
const services = {
  'https://jwt.example': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'https://opaque.example': { accessTokenFormat: 'opaque' },
};

const certificate = (ctx) => {
  const peer = ctx.req.socket.getPeerX509Certificate();
  return peer && ctx.req.socket.authorized ? peer : undefined;
};

const start = () =>
  new Provider(issuer, {
    clients: JSON.parse(readFileSync(file('clients.json'), 'utf8')),
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    clientAuthMethods: ['private_key_jwt', 'tls_client_auth', 'client_secret_basic'],
    jwks: { keys: signingKeys() },
    scopes: ['payments.read', 'payments.write'],
    ttl: { ClientCredentials: 300 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      dPoP: { enabled: true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        getCertificate: certificate,
        certificateAuthorized: (ctx) => certificate(ctx) !== undefined,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_san_uri' &&
          certificate(ctx).subjectAltName.split(', ').includes(`URI:${expected}`),
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => {
          if (!services[resource]) throw new Error(`no service ${resource}`);
          return { scope: 'payments.read payments.write', audience: resource, ...services[resource] };
        },
      },
    },
  });

let answer = start().callback();
const server = createServer(
  {
    cert: readFileSync(file('server.crt')),
    key: readFileSync(file('server.key')),
    ca: readFileSync(file('ca.crt')),
    requestCert: true,
    rejectUnauthorized: false,
  },
  (request, response) => answer(request, response),
);
server.listen(Number(port), '127.0.0.1', () => console.log('ready'));

createInterface({ input: process.stdin }).on('line', (line) => {
  if (line !== 'rotate') throw new Error(`what is ${line}?`);
  writeFileSync(file('signing.json'), JSON.stringify([newKey(), ...signingKeys()]));
  answer = start().callback();
  console.log('rotated');
});
