"""What Redis runs as one step. Its own clock counts, so that the clocks of the workers do not matter.

Times are whole microseconds since 1970, which doubles hold exactly, as they do every quotient that is rounded down.
"""

#: What HIT and SETTLE share: one caller's counters for all windows of a bucket, as in ``mlguard._counters``. The value
#: holds of each window, if it slides, part, units, part, units..., oldest first; if it is fixed, its number and units;
#: if it is a bucket that leaks, the level and when it had it.
#:
#: A width is that of a part of a sliding window, else that of the window, in microseconds.
_COUNTERS = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local PARTS = tonumber(ARGV[1])
local stored = redis.call('GET', KEYS[1])
local counters = stored and cmsgpack.unpack(stored) or {}

local function move(kind, old, limit, width)
  if kind == 'sliding' then
    local first, kept, total = math.floor(now / width) - PARTS, {}, 0
    for i = 1, #old, 2 do
      if old[i] >= first then
        kept[#kept + 1], kept[#kept + 2] = old[i], old[i + 1]
        total = total + old[i + 1]
      end
    end
    return kept, total
  elseif kind == 'fixed' then
    local number = math.floor(now / width)
    if not old[1] or number > old[1] then return {number, 0}, 0 end
    return old, old[2]
  end
  local level, at = old[1] or 0, old[2] or now
  if now > at then level, at = math.max(0, level - (now - at) * limit / width), now end
  return {level, at}, level
end

local function add(kind, counter, width, units)
  if kind == 'fixed' then
    counter[2] = counter[2] + units
  elseif kind == 'gcra' then
    counter[1] = counter[1] + units
  else
    local current = math.floor(now / width)
    if #counter > 0 and counter[#counter - 1] >= current then  -- >=: a clock that went backwards
      counter[#counter] = counter[#counter] + units
    else
      counter[#counter + 1], counter[#counter + 2] = current, units
    end
  end
end
"""

#: KEYS: the counters. ARGV: parts of a window, milliseconds to keep them, cost, then of each window its kind, limit
#: and width.
#: Returns: admitted, microseconds to wait (-1: for ever), the time, then of each window units used and microseconds
#: until reset.
HIT = (
    _COUNTERS
    + """
local cost = tonumber(ARGV[3])
local answer, totals = {1, 0, now}, {}

local function wait(kind, counter, total, limit, width)
  if cost > limit and kind ~= 'sliding' then return -1 end
  if kind == 'fixed' then return (counter[1] + 1) * width - now end
  if kind == 'gcra' then return math.ceil((total + cost - limit) * width / limit) end
  local excess = total + cost - limit
  for i = 1, #counter, 2 do
    excess = excess - counter[i + 1]
    if excess <= 0 then return (counter[i] + PARTS + 1) * width - now end
  end
  return -1
end

local function reset(kind, counter, total, limit, width)
  if total <= 0 then return 0 end
  if kind == 'fixed' then return (counter[1] + 1) * width - now end
  if kind == 'gcra' then return math.ceil((total - math.ceil(total) + 1) * width / limit) end
  return (counter[1] + PARTS + 1) * width - now
end

for place = 4, #ARGV, 3 do
  local window = (place - 1) / 3
  local kind, limit, width = ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
  local counter, total = move(kind, counters[window] or {}, limit, width)
  if total + cost > limit then
    local seconds = wait(kind, counter, total, limit, width)
    answer[1] = 0
    if seconds < 0 or answer[2] < 0 then answer[2] = -1 else answer[2] = math.max(answer[2], seconds) end
  end
  counters[window], totals[window] = counter, total
end

local counts = answer[1] == 1 and cost > 0
for place = 4, #ARGV, 3 do
  local window = (place - 1) / 3
  local kind, limit, width = ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
  if counts then
    add(kind, counters[window], width, cost)
    totals[window] = totals[window] + cost
  end
  answer[#answer + 1] = math.ceil(totals[window])
  answer[#answer + 1] = reset(kind, counters[window], totals[window], limit, width)
end
if counts then redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', ARGV[2]) end
return answer
"""
)

#: KEYS: the counters. ARGV: parts of a window, milliseconds to keep them, units (below 0: given back), the time of the
#: hit, then of each window its kind, limit and width.
SETTLE = (
    _COUNTERS
    + """
local units, at = tonumber(ARGV[3]), tonumber(ARGV[4])

local function give_back(kind, counter, limit, width)
  if kind == 'fixed' then
    if math.floor(at / width) == counter[1] then counter[2] = math.max(0, counter[2] + units) end
  elseif kind == 'gcra' then  -- part of them may have leaked since
    counter[1] = math.max(0, counter[1] - math.max(0, -units - math.max(0, now - at) * limit / width))
  else
    for i = 1, #counter, 2 do
      if counter[i] == math.floor(at / width) then counter[i + 1] = math.max(0, counter[i + 1] + units) end
    end
  end
end

for place = 5, #ARGV, 3 do
  local window = (place - 2) / 3
  local kind, limit, width = ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
  local counter = move(kind, counters[window] or {}, limit, width)
  if units > 0 then add(kind, counter, width, units) else give_back(kind, counter, limit, width) end
  counters[window] = counter
end
if units > 0 then
  redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', ARGV[2])
elseif stored then
  redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'KEEPTTL')
end
return 0
"""
)

#: KEYS: a budget. ARGV: units (below 0: given back), milliseconds to keep it, and the limit; without it, there is none.
#: Returns: admitted, units used.
SPEND = """
local used, units = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])
if ARGV[3] and units >= 0 and used + units > tonumber(ARGV[3]) then return {0, used} end
if units ~= 0 then
  used = used + units
  redis.call('SET', KEYS[1], string.format('%.0f', used), 'PX', ARGV[2])
end
return {1, used}
"""

#: The places that holders have, a sorted set by the time when each ends by itself.
#:
#: KEYS: the places. ARGV: the holder, milliseconds to hold it, how many places there are.
#: Returns: 1 (held) or 0, and microseconds until the first place is free by itself.
TAKE_LEASE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return {0, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] - now}
end
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2] + 1) end
return {1, 0}
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
