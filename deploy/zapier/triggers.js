const { apiUrl } = require('./authentication');
const samples = require('./samples.json');

const ROOM = {
  key: 'room_id',
  label: 'Room',
  type: 'string',
  required: false,
  helpText: "The room's id. Leave it empty for all rooms.",
};

const hook = (type, noun, label, description) => ({
  key: type.replace('.', '_'),
  noun,
  display: { label, description },
  operation: {
    type: 'hook',
    inputFields: [ROOM],
    performSubscribe: async (z, bundle) => {
      const body = { url: bundle.targetUrl, event: type, room_id: bundle.inputData.room_id || null };
      const { data } = await z.request({ method: 'POST', url: apiUrl(bundle, 'hooks'), body });
      return { id: data.id };
    },
    performUnsubscribe: async (z, bundle) => {
      const url = apiUrl(bundle, `hooks/${encodeURIComponent(bundle.subscribeData.id)}`);
      await z.request({ method: 'DELETE', url });
      return {};
    },
    perform: (z, bundle) => [bundle.cleanedRequest],
    performList: async (z, bundle) => {
      const params = bundle.inputData.room_id ? { room_id: bundle.inputData.room_id } : {};
      return (await z.request({ url: apiUrl(bundle, `samples/${type}`), params })).data;
    },
    sample: samples[type],
  },
});

const triggers = [
  hook('peer.joined', 'Participant', 'Participant Joined', 'Triggers when a participant joins a room.'),
  hook('peer.left', 'Participant', 'Participant Left', 'Triggers when a participant leaves a room.'),
  hook('room.empty', 'Room', 'Room Became Empty', 'Triggers when the last participant has left a room.'),
];

module.exports = Object.fromEntries(triggers.map((trigger) => [trigger.key, trigger]));
