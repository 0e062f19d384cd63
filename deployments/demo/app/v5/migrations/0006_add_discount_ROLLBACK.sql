ALTER TABLE orders DROP COLUMN IF EXISTS discount_cents;
