"""What Redis runs as one step. Its own clock counts, so that the clocks of the workers do not matter.

Times are whole microseconds since 1970, which doubles hold exactly, as they do every quotient that is rounded down.
"""

#: One caller's counters for all windows of a bucket. The same rules as ``MemoryStore``: a window is cut into parts, and
#: the oldest is counted whole. The value is, for each window, a list of part, units, part, units..., oldest first.
#:
#: KEYS: the counters. ARGV: parts of a window, cost, milliseconds to keep them, then of each window the limit and the
#: microseconds of a part.
#: Returns: admitted, microseconds to wait (-1: for ever), then units used and microseconds until reset of each window.
HIT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local PARTS, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = redis.call('GET', KEYS[1])
local counters = stored and cmsgpack.unpack(stored) or {}
local answer, totals = {1, 0}, {}

for place = 4, #ARGV, 2 do
  local window = place / 2 - 1
  local limit, width = tonumber(ARGV[place]), tonumber(ARGV[place + 1])
  local current = math.floor(now / width)
  local old, kept, total = counters[window] or {}, {}, 0
  for i = 1, #old, 2 do
    if old[i] >= current - PARTS then
      kept[#kept + 1], kept[#kept + 2] = old[i], old[i + 1]
      total = total + old[i + 1]
    end
  end
  if total + cost > limit then
    local excess, wait = total + cost - limit, -1
    for i = 1, #kept, 2 do
      excess = excess - kept[i + 1]
      if excess <= 0 then
        wait = (kept[i] + PARTS + 1) * width - now
        break
      end
    end
    answer[1] = 0
    if wait < 0 or answer[2] < 0 then answer[2] = -1 else answer[2] = math.max(answer[2], wait) end
  end
  counters[window], totals[window] = kept, total
end

local counts = answer[1] == 1 and cost > 0
for place = 4, #ARGV, 2 do
  local window = place / 2 - 1
  local width, kept = tonumber(ARGV[place + 1]), counters[window]
  if counts then
    local current = math.floor(now / width)
    if #kept > 0 and kept[#kept - 1] >= current then  -- >=: a clock that went backwards
      kept[#kept] = kept[#kept] + cost
    else
      kept[#kept + 1], kept[#kept + 2] = current, cost
    end
    totals[window] = totals[window] + cost
  end
  answer[#answer + 1] = totals[window]
  answer[#answer + 1] = #kept > 0 and (kept[1] + PARTS + 1) * width - now or 0
end
if counts then redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', ARGV[3]) end
return answer
"""

#: One owner's nonces, a sorted set by the time of expiry.
#:
#: KEYS: the owner's nonces. ARGV: nonce, milliseconds to keep it, how many there may be, how many expired ones to drop.
#: Returns: 1 (new), 0 (known) or -1 (no room), and microseconds until the oldest expires.
ADD_NONCE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if known and tonumber(known) > now then return {0, 0} end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[4])) do
  redis.call('ZREM', KEYS[1], old)
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return {-1, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] - now}
end
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2] + 1) end
return {1, 0}
"""

#: KEYS: a value. ARGV: the new one, milliseconds to keep it, and the one that must be there; without it, none may be.
#: Returns: 1 if it was kept.
SWAP = """
if redis.call('GET', KEYS[1]) ~= (ARGV[3] or false) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
