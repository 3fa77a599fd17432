import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { randomUUID } from 'node:crypto'
import { PrismaPg } from '@prisma/adapter-pg'
import { PrismaClient } from '@prisma/client'
import { signed, transaction } from './audit.mjs'

const prisma = new PrismaClient({ adapter: new PrismaPg({ max: 4 }) })

const addOrder = ({ id, note }) =>
  transaction(prisma, async (tx) => {
    await tx.order.create({ data: { id, note } })
    await tx.orderEvent.create({ data: { orderId: id, note } })
  })

const changeOrder = (id, { note }) =>
  transaction(prisma, (tx) => tx.order.update({ where: { id }, data: { note } }))

createServer(async (request, response) => {
  const { 'x-user': username, 'x-request-id': requestId = randomUUID() } = request.headers
  try {
    await signed({ username, source: 'web', requestId }, async () => {
      const asked = await json(request)
      if (request.method === 'POST') await addOrder(asked)
      else await changeOrder(BigInt(request.url.split('/').pop()), asked)
    })
    response.writeHead(204)
  } catch (error) {
    console.error(error)
    response.writeHead(500)
  }
  response.end()
}).listen(Number(process.env.PORT), '127.0.0.1')
