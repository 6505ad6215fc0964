#!lua flags=allow-oom
-- Takes recalls back, and counts them: how many are there and how many were taken back together say how many there ever
-- were, which moves whenever one is added.
--
-- KEYS: meta, recalled. ARGV: digests.

local META, RECALLED = unpack(KEYS)

if redis.call('EXISTS', META) == 1 then
  redis.call('HINCRBY', META, 'settled', redis.call('SREM', RECALLED, unpack(ARGV)))
end
return { 'settled' }
