import { AsyncLocalStorage } from 'node:async_hooks'

const current = new AsyncLocalStorage()

export const signed = ({ username = null, source = null, requestId = null }, work) =>
  current.run({ username, source, requestId }, work)

export const transaction = (prisma, work, options) =>
  prisma.$transaction(async (tx) => {
    const { username, source, requestId } = current.getStore()
    await tx.$queryRaw`SELECT audit_annotate(username => ${username}, source => ${source}, request_id => ${requestId})`
    return work(tx)
  }, options)
