DROP TABLE IF EXISTS stock_alerts;
