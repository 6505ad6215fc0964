#!lua flags=no-writes
-- Some of the recalled digests: how many there are, where to go on, which they are, and how many of the members that were
-- passed are none. Those are not carried: whoever can add members can add long ones.
--
-- KEYS: recalled. ARGV: the cursor, about how many.

local step = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local digests, damaged = {}, 0
for _, member in ipairs(step[2]) do
  if #member == 32 then
    digests[#digests + 1] = member
  else
    damaged = damaged + 1
  end
end
return { redis.call('SCARD', KEYS[1]), step[1], digests, damaged }
