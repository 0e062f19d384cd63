CREATE TABLE stock_alerts (
    sku text PRIMARY KEY REFERENCES products (sku),
    threshold integer NOT NULL CHECK (threshold > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE stock_alerts IS 'products to reorder when their stock falls below the threshold';

INSERT INTO stock_alerts (sku, threshold)
SELECT sku, CASE WHEN price_cents < 1000 THEN 500 ELSE 50 END FROM products WHERE listed;
