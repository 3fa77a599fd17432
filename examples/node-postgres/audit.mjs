import { AsyncLocalStorage } from 'node:async_hooks'

const SIGN = `SELECT set_config('audit_cdc.username', $1, true), set_config('audit_cdc.source', $2, true),
                     set_config('audit_cdc.request_id', $3, true)`
const current = new AsyncLocalStorage()

export const signed = ({ username = null, source = null, requestId = null }, work) =>
  current.run([username, source, requestId], work)

export async function transaction(pool, work) {
  const client = await pool.connect()
  let lost
  try {
    await client.query('BEGIN')
    await client.query(SIGN, current.getStore())
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch((failure) => { lost = failure })
    throw error
  } finally {
    client.release(lost)
  }
}
