ALTER TABLE orders ADD COLUMN discount_cents integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN orders.discount_cents IS 'taken off the total';
