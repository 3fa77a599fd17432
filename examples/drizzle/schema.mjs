import { bigint, pgTable, text } from 'drizzle-orm/pg-core'

export const orders = pgTable('orders', {
  id: bigint({ mode: 'number' }).primaryKey(),
  note: text().notNull(),
})

export const orderEvents = pgTable('order_events', {
  id: bigint({ mode: 'number' }).primaryKey().generatedByDefaultAsIdentity(),
  orderId: bigint('order_id', { mode: 'number' }).notNull(),
  note: text().notNull(),
})
