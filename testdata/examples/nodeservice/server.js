'use strict';

// Answers HTTP requests with the user and the Node that serve them.
const express = require('express');
const os = require('os');

const app = express();
app.get('/', (req, res) => {
  res.json({ hello: 'stars', user: os.userInfo().username, express: require('express/package.json').version });
});

const [host, port] = (process.env.ADDR || '0.0.0.0:8080').split(':');
const server = app.listen(Number(port), host, () => console.log(`stars: listening on ${host}:${port}`));

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => server.close(() => process.exit(signal === 'SIGINT' ? 3 : 0)));
}
