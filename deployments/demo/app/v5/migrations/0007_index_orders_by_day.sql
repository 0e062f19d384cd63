CREATE INDEX CONCURRENTLY orders_by_day ON orders (((ordered_at AT TIME ZONE 'UTC')::date));
