// A real OpenID provider (npm oidc-provider) for tests. It says where it listens in one line of JSON on stdout, takes
// orders under /test/, and ends when its stdin is closed, so that it never outlives the tests that started it.

import * as crypto from 'node:crypto';
import http from 'node:http';

import { SignJWT, UnsecuredJWT, exportJWK, generateKeyPair, importJWK } from 'jose';
import Provider from 'oidc-provider';

const AUDIENCE = 'https://kdcube.test/api';
const GROUPS = { paid: ['kdcube:role:paid'], admin: ['kdcube:role:admin'] };

// What tests may change while it runs.
const state = {
  ttl: { AccessToken: 3600, IdToken: 3600, RefreshToken: 86400 },
  status: null, // answers everything outside /test/ with this status
  requests: {}, // path -> count, outside /test/
  users: {
    alice: { name: 'Alice', groups: [] },
    bob: { name: 'Bob', groups: [] },
    paula: { name: 'Paula', groups: GROUPS.paid },
    root: { name: 'Root', groups: GROUPS.admin },
  },
};

const stored = new Map();

class Adapter {
  constructor(model) {
    this.model = model;
  }

  #key(id) {
    return `${this.model} ${id}`;
  }

  async upsert(id, payload, expiresIn) {
    stored.set(this.#key(id), { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
  }

  async find(id) {
    const entry = stored.get(this.#key(id));
    return entry && entry.until > Date.now() ? entry.payload : undefined;
  }

  async findByUid(uid) {
    for (const [key, { payload }] of stored) if (key.startsWith(`${this.model} `) && payload.uid === uid) return payload;
    return undefined;
  }

  async consume(id) {
    stored.get(this.#key(id)).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    stored.delete(this.#key(id));
  }

  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of stored) if (payload.grantId === grantId) stored.delete(key);
  }
}

const page = (body) => `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Test provider</title>${body}</html>`;
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function userOf(sub) {
  return state.users[sub] ?? { name: sub, groups: [] };
}

function profileOf(sub) {
  const { name, groups, ...more } = userOf(sub);
  return { preferred_username: sub, name, email: `${sub}@example.org`, email_verified: true, groups, roles: groups, ...more };
}

function configuration(keys) {
  return {
    adapter: Adapter,
    jwks: { keys },
    cookies: { keys: ['a key of tests only'] },
    clientDefaults: { grant_types: ['authorization_code', 'refresh_token'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      groups: ['groups', 'roles'],
    },
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      revocation: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: async (ctx, form) => {
          ctx.body = page(`${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>`);
        },
        postLogoutSuccessSource: async (ctx) => {
          ctx.body = page('<p>Signed out</p>');
        },
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => AUDIENCE,
        useGrantedResource: async () => true,
        getResourceServerInfo: async (ctx, resource) => ({
          audience: resource,
          scope: 'chat',
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    extraTokenClaims: async (ctx, token) => {
      const { groups, roles, preferred_username } = profileOf(token.accountId);
      return { groups, roles, preferred_username };
    },
    findAccount: async (ctx, sub) => ({ accountId: sub, claims: async () => ({ sub, ...profileOf(sub) }) }),
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options), // the default refuses loopback
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    pkce: { required: () => true },
    rotateRefreshToken: () => true,
    ttl: {
      AccessToken: () => state.ttl.AccessToken,
      IdToken: () => state.ttl.IdToken,
      RefreshToken: () => state.ttl.RefreshToken,
      AuthorizationCode: 60,
      Grant: 86400,
      Interaction: 3600,
      Session: 86400,
    },
    renderError: async (ctx, out) => {
      ctx.type = 'html';
      ctx.body = page(`<pre>${escaped(JSON.stringify(out))}</pre>`);
    },
  };
}

// Signing keys: the first of the set signs.

async function newKey(kind = 'RS256') {
  const { privateKey } = await generateKeyPair(kind, { extractable: true });
  return { ...(await exportJWK(privateKey)), kid: crypto.randomUUID(), alg: kind, use: 'sig' };
}

let keys = [await newKey(), await newKey('ES256')];
const foreign = await newKey();
let issuer;
let handle;

function rebuild() {
  const provider = new Provider(issuer, configuration(keys));
  provider.on('server_error', (ctx, error) => console.error(error));
  provider.on('backchannel.error', (ctx, error) => console.error(error));
  const callback = provider.callback();
  handle = (request, response) =>
    request.url.startsWith('/interaction/') ? interact(provider, request, response) : callback(request, response);
}

// Signing in: a form with name and password; consent is given at once, as by a company's own provider.

async function interact(provider, request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'consent') {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    grant.addResourceScope(AUDIENCE, 'chat');
    const consent = { grantId: await grant.save() };
    return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
  }
  let told = '';
  if (request.method === 'POST') {
    const form = new URLSearchParams(await text(request));
    const name = form.get('name') ?? '';
    if (form.get('deny')) {
      return provider.interactionFinished(request, response, { error: 'access_denied', error_description: 'denied' });
    }
    if (name && form.get('password') === `${name}-password`) {
      return provider.interactionFinished(request, response, { login: { accountId: name } });
    }
    told = '<p role="alert">Wrong name or password</p>';
  }
  response.writeHead(200, { 'content-type': 'text/html' });
  response.end(
    page(
      `${told}<form method="post"><input name="name" autocomplete="username"><input name="password" type="password">` +
        '<button type="submit">Sign in</button><button type="submit" name="deny" value="1">Cancel</button></form>',
    ),
  );
  return undefined;
}

// Orders of tests.

const orders = {
  // {drop}: whether the old keys disappear from the JWKS at once.
  rotate: async ({ drop = false }) => {
    keys = [await newKey(), await newKey('ES256'), ...(drop ? [] : keys)];
    rebuild();
    return { kid: keys[0].kid };
  },
  // Any claims and header, signed by the current key, by one that is not in the JWKS ("foreign"), or not at all ("none").
  mint: async ({ claims, header = {}, key = 'RS256' }) => {
    if (key === 'none') return { token: new UnsecuredJWT(claims).encode() };
    const jwk = key === 'foreign' ? foreign : keys.find(({ alg }) => alg === key);
    const protectedHeader = { alg: jwk.alg, typ: 'at+jwt', kid: jwk.kid, ...header };
    for (const [name, value] of Object.entries(protectedHeader)) if (value === null) delete protectedHeader[name];
    const crit = Object.fromEntries((header.crit ?? []).map((name) => [name, true]));
    const signing = new SignJWT(claims).setProtectedHeader(protectedHeader);
    const token = await signing.sign(await importJWK(jwk, jwk.alg), { crit });
    return { token };
  },
  // Client metadata as for registration; answers with it. Without token_endpoint_auth_method it is confidential.
  client: async (metadata) => {
    const client = { client_id: crypto.randomUUID(), ...metadata };
    if (client.token_endpoint_auth_method !== 'none') client.client_secret ??= crypto.randomUUID();
    stored.set(`Client ${client.client_id}`, { payload: client, until: Infinity });
    return client;
  },
  user: async ({ sub, ...profile }) => {
    state.users[sub] = { name: sub, groups: [], ...profile };
    return {};
  },
  ttl: async (ttl) => {
    Object.assign(state.ttl, ttl);
    return state.ttl;
  },
  answer: async ({ status }) => {
    state.status = status;
    return {};
  },
  requests: async () => {
    const counted = state.requests;
    state.requests = {};
    return counted;
  },
  // As an administrator of the provider would: all grants and sessions of a user.
  revoke: async ({ sub }) => {
    for (const [key, { payload }] of stored) if (payload.accountId === sub) stored.delete(key);
    return {};
  },
};

async function text(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

const server = http.createServer(async (request, response) => {
  try {
    const path = request.url.split('?')[0];
    if (path.startsWith('/test/')) {
      const answer = await orders[path.slice(6)](JSON.parse((await text(request)) || '{}'));
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(answer));
      return;
    }
    state.requests[path] = (state.requests[path] ?? 0) + 1;
    if (state.status !== null) {
      response.writeHead(state.status);
      response.end();
      return;
    }
    if (path.endsWith('/.well-known/jwks.json')) {
      // What Amazon Cognito has there, below the id of a user pool.
      const pool = keys.filter(({ kty }) => kty === 'RSA').map(({ alg, e, kid, kty, n, use }) => ({ alg, e, kid, kty, n, use }));
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ keys: pool }));
      return;
    }
    await handle(request, response);
  } catch (error) {
    console.error(error);
    if (!response.headersSent) response.writeHead(500);
    response.end(String(error));
  }
});

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  rebuild();
  console.log(JSON.stringify({ event: 'listening', issuer, audience: AUDIENCE }));
});
process.stdin.resume();
process.stdin.on('close', () => process.exit(0));
