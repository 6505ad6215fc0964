#!lua flags=no-writes
-- The position of a server, and which checksum and head its log shows at a revision; none where it shows none.
--
-- KEYS: meta, log. ARGV: the revision, the fields of meta that make a position.

local shown = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])) do
  local fields = {}
  for place = 1, #entry[2], 2 do
    fields[entry[2][place]] = entry[2][place + 1]
  end
  shown = { fields.c or '', fields.h or '' }
end
return { redis.call('HMGET', KEYS[1], unpack(ARGV, 2)), shown }
