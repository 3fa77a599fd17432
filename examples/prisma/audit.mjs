import { AsyncLocalStorage } from 'node:async_hooks'

const current = new AsyncLocalStorage()

export const signed = ({ username = null, source = null, requestId = null }, work) =>
  current.run({ username, source, requestId }, work)

export const transaction = (prisma, work, options) =>
  prisma.$transaction(async (tx) => {
    const { username, source, requestId } = current.getStore()
    await tx.$queryRaw`
      SELECT set_config('audit_cdc.username', ${username}, true), set_config('audit_cdc.source', ${source}, true),
             set_config('audit_cdc.request_id', ${requestId}, true)`
    return work(tx)
  }, options)
