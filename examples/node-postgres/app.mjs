import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { signed, transaction } from './audit.mjs'

const pool = new pg.Pool({ max: 4 })

const addOrder = ({ id, note }) =>
  transaction(pool, async (client) => {
    await client.query('INSERT INTO orders VALUES ($1, $2)', [id, note])
    await client.query('INSERT INTO order_events (order_id, note) VALUES ($1, $2)', [id, note])
  })

const changeOrder = (id, { note }) =>
  transaction(pool, (client) => client.query('UPDATE orders SET note = $1 WHERE id = $2', [note, id]))

createServer(async (request, response) => {
  const { 'x-user': username, 'x-request-id': requestId = randomUUID() } = request.headers
  try {
    await signed({ username, source: 'web', requestId }, async () => {
      const asked = await json(request)
      if (request.method === 'POST') await addOrder(asked)
      else await changeOrder(request.url.split('/').pop(), asked)
    })
    response.writeHead(204)
  } catch (error) {
    console.error(error)
    response.writeHead(500)
  }
  response.end()
}).listen(Number(process.env.PORT), '127.0.0.1')
