#!lua flags=no-writes
-- The reports of all sidecars: for each its id, what it wrote, and how many milliseconds of its TTL are left.
--
-- KEYS: sidecars. ARGV: what comes before the id in the key of a report.

local reports = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local key = ARGV[1] .. id
  reports[#reports + 1] = { id, redis.call('GET', key), redis.call('PTTL', key) }
end
return reports
