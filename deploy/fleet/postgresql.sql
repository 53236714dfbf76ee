-- Two roles and a database for a fleet of brokers: docs/how-to/from-one-machine-to-a-fleet.md. For psql, as a
-- superuser, once. The owner makes the tables (stepwrit fleet migrate); brokers serve with the least they need.
-- \set owner_password and \set broker_password come before it.
\set ON_ERROR_STOP on
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET password_encryption = 'scram-sha-256';
CREATE ROLE stepwrit_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE stepwrit_broker LOGIN PASSWORD :'broker_password';
CREATE DATABASE stepwrit OWNER stepwrit_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE stepwrit FROM PUBLIC;
GRANT CONNECT ON DATABASE stepwrit TO stepwrit_broker;
