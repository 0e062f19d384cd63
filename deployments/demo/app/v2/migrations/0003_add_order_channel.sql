ALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web';
COMMENT ON COLUMN orders.channel IS 'where the order came from: web, api';
