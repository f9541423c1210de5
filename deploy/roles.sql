-- The roles of the processes, made once with a new database; `crossfeed grant` gives them their rights.
\getenv password POSTGRES_PASSWORD
CREATE ROLE relay LOGIN PASSWORD :'password';
CREATE ROLE mirror LOGIN PASSWORD :'password';
