import { AsyncLocalStorage } from 'node:async_hooks'
import { sql } from 'drizzle-orm'

const current = new AsyncLocalStorage()

export const signed = ({ username = null, source = null, requestId = null }, work) =>
  current.run({ username, source, requestId }, work)

export const transaction = (db, work) =>
  db.transaction(async (tx) => {
    const { username, source, requestId } = current.getStore()
    await tx.execute(sql`SELECT audit_annotate(username => ${username}, source => ${source}, request_id => ${requestId})`)
    return work(tx)
  })
