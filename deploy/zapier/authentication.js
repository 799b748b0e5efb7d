const SCOPES = ['hooks', 'write', 'admin']; // each permits REST hooks and samples

const apiUrl = (bundle, path) => `${bundle.authData.base_url.trim().replace(/\/+$/, '')}/api/v1/${path}`;

const authorize = (request, z, bundle) => {
  request.headers.Authorization = `Bearer ${bundle.authData.token}`;
  return request;
};

// The bridge explains every error in `detail` (application/problem+json): people see that, not "status code 422".
const explainProblem = (response, z) => {
  const detail = response.status >= 400 ? response.data?.detail : undefined;
  if (detail) {
    const isOfToken = response.status === 401 || response.status === 403;
    throw new z.errors.Error(`The bridge: ${detail}`, isOfToken ? 'AuthenticationError' : 'Refused', response.status);
  }
  return response;
};

const test = async (z, bundle) => {
  const { data } = await z.request({ url: apiUrl(bundle, 'me') });
  if (!data.scopes?.some((scope) => SCOPES.includes(scope))) {
    throw new z.errors.Error(
      'This token may not subscribe: make one with `bridge tokens add zapier --scope hooks`',
      'AuthenticationError',
      403,
    );
  }
  return data;
};

const authentication = {
  type: 'custom',
  fields: [
    {
      key: 'base_url',
      label: 'Address of the bridge',
      type: 'string',
      required: true,
      placeholder: 'https://bridge.example.com',
      helpText: 'Where the dashboard is: without `/api/v1`.',
    },
    {
      key: 'token',
      label: 'Token',
      type: 'password',
      required: true,
      helpText: 'From `bridge tokens add zapier --scope hooks`.',
    },
  ],
  test,
  connectionLabel: (z, bundle) => `${bundle.inputData.name} at ${bundle.authData.base_url}`,
};

module.exports = { apiUrl, authentication, authorize, explainProblem };
