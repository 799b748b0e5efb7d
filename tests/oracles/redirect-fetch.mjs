// The official SDK has no setting for its base URL, but it looks up the global fetch at every call. Importing this
// sends what is meant for Huddle01 to HUDDLE_BASE_URL instead, and refuses to let anything else out.

const target = new URL(process.env.HUDDLE_BASE_URL);
const huddle01 = ['infra-api.huddle01.workers.dev', 'api.huddle01.com', 'iriko.huddle01.media'];
const originalFetch = globalThis.fetch;

globalThis.fetch = async (resource, options) => {
  const asked = new URL(resource instanceof Request ? resource.url : resource);
  if (!huddle01.includes(asked.hostname)) {
    throw new Error(`the SDK called ${asked.hostname}, which is not one of Huddle01's known hosts`);
  }
  const redirected = new URL(asked.pathname + asked.search, target);
  return originalFetch(redirected, resource instanceof Request ? resource : options);
};
