import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { randomUUID } from 'node:crypto'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { signed, transaction } from './audit.mjs'
import { orderEvents, orders } from './schema.mjs'

const db = drizzle(new pg.Pool({ max: 4 }))

const addOrder = ({ id, note }) =>
  transaction(db, async (tx) => {
    await tx.insert(orders).values({ id, note })
    await tx.insert(orderEvents).values({ orderId: id, note })
  })

const changeOrder = (id, { note }) =>
  transaction(db, (tx) => tx.update(orders).set({ note }).where(eq(orders.id, id)))

createServer(async (request, response) => {
  const { 'x-user': username, 'x-request-id': requestId = randomUUID() } = request.headers
  try {
    await signed({ username, source: 'web', requestId }, async () => {
      const asked = await json(request)
      if (request.method === 'POST') await addOrder(asked)
      else await changeOrder(Number(request.url.split('/').pop()), asked)
    })
    response.writeHead(204)
  } catch (error) {
    console.error(error)
    response.writeHead(500)
  }
  response.end()
}).listen(Number(process.env.PORT), '127.0.0.1')
