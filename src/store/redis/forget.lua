#!lua
-- Forgets the ids of sidecars that have no report. Whether one has is looked at here, in the same step: it may have come back
-- since somebody found that its report was gone.
--
-- KEYS: sidecars. ARGV: what comes before the id in the key of a report, then the ids.

for index = 2, #ARGV do
  if redis.call('EXISTS', ARGV[1] .. ARGV[index]) == 0 then
    redis.call('SREM', KEYS[1], ARGV[index])
  end
end
