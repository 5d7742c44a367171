-- Wireshark and tshark: the packets between two vmsgrd, as docs/PROTOCOL.md, sections 11 to 13, has them.
--
-- Needs Wireshark 4.4 or newer (Lua 5.4). `tshark -X lua_script:vmsgr.lua -r FILE`, or a copy in one of the folders for Lua
-- plugins that Help > About > Folders names. docs/TRUNKS-DEBUG.md tells how to use it.
--
-- What a packet alone says is dissected anew each time. What depends on those before it (size agreed in the hello, next
-- sequence, channels that were opened) is judged once, when the capture is read, and remembered by frame.

local trunk = Proto("vmsgr", "VMSGR Trunk")

local MAGIC, GREETING, VERSION = 0x4b525456, 0x47525456, 1
local GREETING_BYTES, HEADER_BYTES, HELLO_BYTES, FRAME_BYTES = 8, 64, 512, 16
local SIZE_MIN, SIZE_MAX = 512, 65536
local HELLO, DATA, DUMMY, ACK, BYE = 1, 2, 3, 4, 5
local TYPES = {"hello", "data", "dummy", "ack", "bye"}
local OPEN, ACCEPT, REFUSE, FRAME_DATA, FIN, RESET, CREDIT = 1, 2, 3, 4, 5, 6, 7
local KINDS = {"open", "accept", "refuse", "data", "fin", "reset", "credit"}
local BODY = {[OPEN] = 56, [ACCEPT] = 8, [REFUSE] = 0, [FIN] = 0, [RESET] = 0, [CREDIT] = 8}  -- data: any but 0
local ANSWERS = {[0] = "welcome", "session not known", "not allowed", "a limit", "stopping"}
local ERRNO = {[0] = "none", [11] = "EAGAIN", [13] = "EACCES", [71] = "EPROTO", [101] = "ENETUNREACH",
               [104] = "ECONNRESET", [110] = "ETIMEDOUT", [111] = "ECONNREFUSED", [113] = "EHOSTUNREACH"}

local p = trunk.prefs
p.port = Pref.uint("TCP port", 6790, "Where vmsgrd listens for trunks (trunk.listen); others are found by their first bytes")
p.crc = Pref.bool("Check the CRC-32C", true, "Costs about a second for each 100 MB")

local f = {
    lane = ProtoField.uint16("vmsgr.lane", "Lane"),
    magic = ProtoField.uint32("vmsgr.magic", "Magic", base.HEX),
    version = ProtoField.uint16("vmsgr.version", "Version"),
    type = ProtoField.uint8("vmsgr.type", "Type", base.DEC, TYPES),
    session = ProtoField.uint64("vmsgr.session", "Session", base.HEX),
    sequence = ProtoField.uint64("vmsgr.sequence", "Sequence"),
    ack = ProtoField.uint64("vmsgr.ack", "Acknowledges"),
    stamp = ProtoField.uint64("vmsgr.stamp", "Stamp (microseconds)"),
    echo = ProtoField.uint64("vmsgr.echo", "Echo of the stamp"),
    payload = ProtoField.uint32("vmsgr.payload_bytes", "Bytes of payload"),
    size = ProtoField.uint32("vmsgr.packet_bytes", "Bytes of the packet"),
    crc = ProtoField.uint32("vmsgr.crc", "CRC-32C", base.HEX),
    crc_good = ProtoField.bool("vmsgr.crc.good", "CRC-32C is right"),
    direction = ProtoField.string("vmsgr.direction", "From"),
    padding = ProtoField.bytes("vmsgr.padding", "Padding"),
    node = ProtoField.uint64("vmsgr.hello.node", "Node", base.HEX),
    wanted = ProtoField.uint32("vmsgr.hello.packet_bytes", "Packet size"),
    answer = ProtoField.uint32("vmsgr.hello.answer", "Answer", base.DEC, ANSWERS),
    outage = ProtoField.uint32("vmsgr.hello.outage_ms", "Keeps a session without a connection (ms)"),
    hello_lane = ProtoField.uint16("vmsgr.hello.lane", "Lane"),
    features = ProtoField.uint32("vmsgr.hello.features", "Knows (1: urgent data, 2: CRC of headers)", base.HEX),
    name = ProtoField.stringz("vmsgr.hello.name", "Name"),
    frame = ProtoField.none("vmsgr.frame", "Frame"),
    channel = ProtoField.uint64("vmsgr.frame.channel", "Channel"),
    value = ProtoField.uint32("vmsgr.frame.value", "Value", base.DEC, ERRNO),
    urgent = ProtoField.bool("vmsgr.frame.urgent", "The last byte is urgent"),
    length = ProtoField.uint16("vmsgr.frame.length", "Bytes of body"),
    kind = ProtoField.uint8("vmsgr.frame.kind", "Kind", base.DEC, KINDS),
    source4 = ProtoField.ipv4("vmsgr.open.source", "Source"),
    source6 = ProtoField.ipv6("vmsgr.open.source6", "Source"),
    source_port = ProtoField.uint16("vmsgr.open.source_port", "Source port"),
    destination4 = ProtoField.ipv4("vmsgr.open.destination", "Destination"),
    destination6 = ProtoField.ipv6("vmsgr.open.destination6", "Destination"),
    destination_port = ProtoField.uint16("vmsgr.open.destination_port", "Destination port"),
    credit = ProtoField.uint64("vmsgr.frame.credit", "Credit (bytes since the channel began)"),
    data = ProtoField.bytes("vmsgr.frame.data", "Bytes of the stream"),
}
trunk.fields = f

local function wrong(name, text, group)
    return ProtoExpert.new("vmsgr." .. name, text, group or expert.group.MALFORMED, expert.severity.ERROR)
end
local function note(name, text)
    return ProtoExpert.new("vmsgr." .. name, text, expert.group.SEQUENCE, expert.severity.NOTE)
end
-- Named as vmsgrd counts them (vmsgr trunks).
local e = {
    magic = wrong("bad_magic", "no packet begins here"),
    version = wrong("bad_version", "another version"),
    size = wrong("bad_size", "not the size that was agreed"),
    crc = wrong("bad_crc", "the CRC does not fit", expert.group.CHECKSUM),
    type = wrong("bad_type", "a type that does not exist"),
    length = wrong("bad_length", "more payload than the packet has room for"),
    cookie = wrong("bad_cookie", "of another session than the hello's", expert.group.SEQUENCE),
    sequence = wrong("bad_sequence", "packets before this one are missing", expert.group.SEQUENCE),
    ack = wrong("bad_ack", "acknowledges what was not sent", expert.group.SEQUENCE),
    frame = wrong("bad_frame", "no frame: kind or length"),
    channel = wrong("bad_channel", "a channel that was not opened", expert.group.SEQUENCE),
    credit = wrong("beyond_credit", "data beyond the credit", expert.group.SEQUENCE),
    padding = wrong("bad_padding", "what is not named is not zero"),
    again = note("again", "sent again: a replay or a duplicate"),
    skipped = note("skipped", "the capture begins inside a packet"),
}
local all = {}
for _, x in pairs(e) do
    all[#all + 1] = x
end
trunk.experts = all

local tcp_stream = Field.new("tcp.stream")

-- Four tables, so that four bytes take one step.
local crc_tables = {{}, {}, {}, {}}
for i = 0, 255 do
    local c = i
    for _ = 1, 8 do
        c = (c >> 1) ~ ((c & 1) * 0x82f63b78)
    end
    crc_tables[1][i] = c
end
for n = 2, 4 do
    for i = 0, 255 do
        local c = crc_tables[n - 1][i]
        crc_tables[n][i] = (c >> 8) ~ crc_tables[1][c & 255]
    end
end
local function crc32c(bytes)  -- a multiple of four
    local t1, t2, t3, t4 = table.unpack(crc_tables)
    local c, unpack = 0xffffffff, string.unpack
    for at = 1, #bytes, 4 do
        local x = c ~ unpack("<I4", bytes, at)
        c = t4[x & 255] ~ t3[(x >> 8) & 255] ~ t2[(x >> 16) & 255] ~ t1[x >> 24]
    end
    return c ~ 0xffffffff
end

-- By number of the TCP stream: initiator (its port), session and packet_bytes (agreed), tls. By cookie: the last sequence of
-- each direction ("i" from the initiator, "a" from the acceptor), and what was opened, sent and granted since its beginning,
-- where the capture has that. By frame: what was judged, and which of it comes next when it is shown again.
local streams, sessions, judged

function trunk.init()
    streams, sessions, judged = {}, {}, {}
end

local function stream_of(pinfo)
    local number = tcp_stream().value
    local s = streams[number]
    if not s then
        s = {initiator = pinfo.src_port}
        if pinfo.src_port == p.port then
            s.initiator = pinfo.dst_port
        end
        streams[number] = s
    end
    return s
end

-- --- what depends on earlier packets ---------------------------------------------------------------------------------

local function judge_frame(fr, session, way, back, say)
    if fr.kind == OPEN then
        if way ~= "i" or fr.channel ~= session.opened + 1 then
            say[#say + 1] = "channel"
        end
        session.opened = math.max(session.opened, fr.channel)
    elseif fr.channel == 0 or fr.channel > session.opened then
        say[#say + 1] = "channel"
        return
    end
    local may, sent = session.may_send, session.sent
    if fr.credit then
        may[back][fr.channel] = math.max(may[back][fr.channel] or 0, fr.credit)
    elseif fr.kind == FRAME_DATA then
        sent[way][fr.channel] = (sent[way][fr.channel] or 0) + fr.length
        if sent[way][fr.channel] > (may[way][fr.channel] or 0) then
            say[#say + 1] = "credit"
        end
    end
end

local function new_session()
    return {from_start = true, opened = 0, i = 0, a = 0, may_send = {i = {}, a = {}}, sent = {i = {}, a = {}}}
end

-- The names of what is to be said about it.
local function judge(h, stream, from_initiator)
    local say = {}
    if h.type == HELLO then
        if not from_initiator and h.answer == 0 then
            stream.packet_bytes, stream.session = h.wanted, h.session
            if stream.asked == 0 then
                sessions[h.session] = new_session()
            end
        elseif from_initiator then
            stream.asked = h.session
        end
        return say
    end
    if stream.session and stream.session ~= h.session then
        say[#say + 1] = "cookie"
        return say
    end
    local session = sessions[h.session]
    if not session then
        session = {}
        sessions[h.session] = session
    end
    local way, back = from_initiator and "i" or "a", from_initiator and "a" or "i"
    if session.from_start and h.ack > session[back] then
        say[#say + 1] = "ack"
    end
    if h.type ~= DATA then
        return say
    end
    local last = session[way]
    if last and h.sequence <= last then
        say[#say + 1] = "again"
        return say
    end
    if last and h.sequence > last + 1 then
        say[#say + 1] = "sequence"
    end
    session[way] = h.sequence
    if session.from_start then
        for _, fr in ipairs(h.frames) do
            judge_frame(fr, session, way, back, say)
        end
    end
    return say
end

-- Dissecting a frame again meets the same packets in the same order.
local function remembered(pinfo, make)
    local list = judged[pinfo.number]
    if not pinfo.visited then
        if not list then
            list = {at = 0}
            judged[pinfo.number] = list
        end
        list[#list + 1] = make()
        return list[#list]
    end
    if not list or #list == 0 then
        return {}
    end
    list.at = list.at % #list + 1
    return list[list.at]
end

-- --- one packet ------------------------------------------------------------------------------------------------------

local function add_address(tree, range, name)
    local family = range(0, 2):le_uint()
    if family == 4 then
        tree:add(f[name .. "4"], range(8, 4))
    else
        tree:add(f[name .. "6"], range(8, 16))
    end
    tree:add_le(f[name .. "_port"], range(2, 2))
    local text = family == 4 and tostring(range(8, 4):ipv4()) or "[" .. tostring(range(8, 16):ipv6()) .. "]"
    return text .. ":" .. range(2, 2):le_uint()
end

-- What people read of one frame.
local function add_frame(tree, fr, tvb)
    local range = tvb(fr.at, FRAME_BYTES + fr.length)
    local t = tree:add(f.frame, range)
    t:add_le(f.channel, range(0, 8))
    t:add_le(f.value, range(8, 4))
    t:add_le(f.length, range(12, 2))
    t:add_le(f.kind, range(14, 1))
    local text = KINDS[fr.kind] .. " " .. fr.channel
    if fr.kind == OPEN then
        local from = add_address(t, range(16, 24), "source")
        text = text .. " " .. from .. " -> " .. add_address(t, range(40, 24), "destination")
        t:add_le(f.credit, range(64, 8))
    elseif fr.kind == ACCEPT or fr.kind == CREDIT then
        t:add_le(f.credit, range(16, 8))
        text = text .. " " .. tostring(range(16, 8):le_uint64())
    elseif fr.kind == FRAME_DATA then
        t:add(f.data, range(16, fr.length))
        text = text .. " (" .. fr.length .. ")"
        if fr.value % 2 == 1 then
            t:add(f.urgent, range(8, 4), true)
            text = text .. " urgent"
        end
    elseif fr.kind == REFUSE or fr.kind == RESET then
        text = text .. " " .. (ERRNO[fr.value] or fr.value)
    end
    t:set_text(text)
    return text
end

-- The whole frames; what follows them is none, if anything follows.
local function read_frames(raw, first, last)
    local frames, at = {}, first
    while at + FRAME_BYTES <= last do
        local channel, value, length, kind = string.unpack("<I8I4I2B", raw, at + 1)
        local fits = at + FRAME_BYTES + length <= last
        local right = kind == FRAME_DATA and length > 0 or BODY[kind] == length
        if not fits or not right then
            break
        end
        local fr = {at = at, channel = channel, value = value, length = length, kind = kind}
        if kind == OPEN then
            fr.credit = string.unpack("<I8", raw, at + FRAME_BYTES + 48 + 1)
        elseif kind == ACCEPT or kind == CREDIT then
            fr.credit = string.unpack("<I8", raw, at + FRAME_BYTES + 1)
        end
        frames[#frames + 1] = fr
        at = at + FRAME_BYTES + length
    end
    return frames, at
end

local function add_hello(tree, range)
    local t = tree:add(range(HEADER_BYTES, 96), "Hello")
    t:add_le(f.node, range(64, 8))
    t:add_le(f.wanted, range(72, 4))
    t:add_le(f.answer, range(76, 4))
    t:add_le(f.outage, range(80, 4))
    t:add_le(f.hello_lane, range(84, 2))
    t:add_le(f.features, range(88, 4))
    t:add(f.name, range(96, 64))
end

local function add_header(tree, range)
    tree:add_le(f.magic, range(0, 4))
    tree:add_le(f.version, range(4, 2))
    tree:add_le(f.type, range(6, 1))
    tree:add_le(f.session, range(8, 8))
    tree:add_le(f.sequence, range(16, 8))
    tree:add_le(f.ack, range(24, 8))
    tree:add_le(f.stamp, range(32, 8))
    tree:add_le(f.echo, range(40, 8))
    tree:add_le(f.payload, range(48, 4))
    tree:add_le(f.size, range(52, 4))
    return tree:add_le(f.crc, range(56, 4))
end

local function dissect_packet(tvb, at, size, pinfo, tree)
    local range, stream = tvb(at, size), stream_of(pinfo)
    local from_initiator = pinfo.src_port == stream.initiator
    local raw = range:raw()
    local h = {}
    local version, payload, says, crc
    version, h.type, h.session, h.sequence, h.ack, payload, says, crc =
        string.unpack("<xxxxI2BxI8I8I8xxxxxxxxxxxxxxxxI4I4I4", raw)

    local t = tree:add(trunk, range)
    local crc_item = add_header(t, range)
    t:add(f.direction, from_initiator and "initiator" or "acceptor"):set_generated()
    local say = {}
    if version ~= VERSION then
        say[#say + 1] = "version"
    end
    if says ~= size or (h.type ~= HELLO and stream.packet_bytes and says ~= stream.packet_bytes) or
            (h.type == HELLO and says ~= HELLO_BYTES) then
        say[#say + 1] = "size"
    end
    if p.crc then
        -- The header's alone, where both hellos of a connection with TLS say so.
        local good = crc32c(raw:sub(1, 56) .. "\0\0\0\0" .. raw:sub(61, HEADER_BYTES)) == crc
        good = good or crc32c(raw:sub(1, 56) .. "\0\0\0\0" .. raw:sub(61)) == crc
        crc_item:add(f.crc_good, range(56, 4), good):set_generated()
        if not good then
            say[#say + 1] = "crc"
        end
    end
    local name = TYPES[h.type]
    if not name then
        say[#say + 1] = "type"
    end
    if payload > size - HEADER_BYTES then
        say[#say + 1] = "length"
    end
    local words = {(name or "type " .. h.type)}
    h.frames = {}
    if #say == 0 then
        local last = HEADER_BYTES + payload
        if h.type == HELLO then
            h.wanted, h.answer = string.unpack("<I4I4", raw, 73)
            add_hello(t, range)
            words[#words + 1] = (from_initiator and "wanted " or "answer " .. (ANSWERS[h.answer] or h.answer) .. ", ") ..
                                h.wanted .. " bytes"
        elseif h.type == DATA then
            local ended
            h.frames, ended = read_frames(raw, HEADER_BYTES, last)
            if ended ~= last then
                say[#say + 1] = "frame"
            end
            words[#words + 1] = "seq " .. h.sequence
        end
        words[#words + 1] = "ack " .. h.ack
        if last < size then
            local zeros = raw:find("[^\0]", last + 1) == nil
            t:add(f.padding, range(last, size - last)):append_text(zeros and " (zeros)" or "")
            if not zeros then
                say[#say + 1] = "padding"
            end
        end
        for _, about in ipairs(remembered(pinfo, function() return judge(h, stream, from_initiator) end)) do
            say[#say + 1] = about
        end
    end
    for i, fr in ipairs(h.frames) do
        local text = add_frame(t, fr, range:tvb())
        if i <= 3 then
            words[#words + 1] = text
        elseif i == 4 then
            words[#words + 1] = "... " .. #h.frames .. " frames"
        end
    end
    for _, about in ipairs(say) do
        t:add_proto_expert_info(e[about])
        words[#words + 1] = "[" .. about .. "]"
    end
    local text = table.concat(words, ", ")
    t:append_text(": " .. text)
    pinfo.cols.info:append("  " .. text)
end

-- --- the stream of bytes ---------------------------------------------------------------------------------------------

-- Where a packet begins, from `at` on; nothing where none does.
local function find_packet(tvb, at)
    local raw = tvb:raw(at)
    local found = raw:find("VTRK\1\0", 1, true)
    return found and at + found - 1
end

-- Its size: what was agreed, or what it says itself.
local function size_of(tvb, at, stream)
    local says, kind = tvb(at + 52, 4):le_uint(), tvb(at + 6, 1):uint()
    if kind == HELLO then
        return HELLO_BYTES
    end
    if stream.packet_bytes then
        return stream.packet_bytes
    end
    return says >= SIZE_MIN and says <= SIZE_MAX and says % 64 == 0 and says or nil
end

local function more(pinfo, at, bytes)
    pinfo.desegment_offset = at
    pinfo.desegment_len = bytes
end

local function dissect_greeting(tvb, at, pinfo, tree, stream)
    local range = tvb(at, GREETING_BYTES)
    local t = tree:add(trunk, range, "VMSGR Trunk: greeting")
    t:add_le(f.magic, range(0, 4))
    t:add_le(f.version, range(4, 2))
    t:add_le(f.lane, range(6, 2))
    if range(4, 2):le_uint() ~= VERSION then
        t:add_proto_expert_info(e.version)
    end
    stream.initiator = pinfo.src_port
    pinfo.cols.info:append("  greeting, lane " .. range(6, 2):le_uint())
end

local function looks_like_tls(tvb, at)
    return tvb:reported_length_remaining(at) >= 3 and tvb(at, 1):uint() == 0x16 and tvb(at + 1, 1):uint() == 3
end

-- It calls us for what it has decrypted.
local within_tls = false
local function to_tls(tvb, at, pinfo, tree, stream)
    stream.tls, within_tls = true, true
    pinfo.can_desegment = 2  -- as TCP would have said to it
    Dissector.get("tls"):call(tvb(at):tvb(), pinfo, tree)
    within_tls = false
    if pinfo.desegment_len ~= 0 then
        pinfo.desegment_offset = pinfo.desegment_offset + at
    end
end

local function dissect_bytes(tvb, pinfo, tree)
    local stream, at, length = stream_of(pinfo), 0, tvb:len()
    while at < length do
        local left = length - at
        if left < GREETING_BYTES then
            return more(pinfo, at, DESEGMENT_ONE_MORE_SEGMENT)
        end
        local magic = tvb(at, 4):le_uint()
        if magic == GREETING then
            dissect_greeting(tvb, at, pinfo, tree, stream)
            at = at + GREETING_BYTES
            if at < length and looks_like_tls(tvb, at) then
                to_tls(tvb, at, pinfo, tree, stream)
                return
            end
        elseif magic == MAGIC and left < HEADER_BYTES then
            return more(pinfo, at, DESEGMENT_ONE_MORE_SEGMENT)
        elseif magic == MAGIC and size_of(tvb, at, stream) then
            local size = size_of(tvb, at, stream)
            if left < size then
                return more(pinfo, at, size - left)
            end
            dissect_packet(tvb, at, size, pinfo, tree)
            at = at + size
        else
            local next_at = find_packet(tvb, at + 1) or length
            local t = tree:add(trunk, tvb(at, next_at - at), "VMSGR Trunk: " .. next_at - at .. " bytes that are no packet")
            t:add_proto_expert_info(stream.packet_bytes and e.magic or e.skipped)
            pinfo.cols.info:append("  [no packet]")
            at = next_at
        end
    end
end

function trunk.dissector(tvb, pinfo, tree)
    if tvb:len() ~= tvb:reported_len() then
        return 0  -- cut by the capture's snapshot length
    end
    local stream = stream_of(pinfo)
    if not within_tls and (stream.tls or looks_like_tls(tvb, 0)) then
        to_tls(tvb, 0, pinfo, tree, stream)
        return tvb:len()
    end
    pinfo.cols.protocol = "VMSGR"
    pinfo.cols.info:clear()
    dissect_bytes(tvb, pinfo, tree)
    pinfo.cols.info:fence()  -- one frame of the capture may bring more
    return tvb:len()
end

-- --- which connections -----------------------------------------------------------------------------------------------

local function begins_as_ours(tvb)
    if tvb:len() < GREETING_BYTES then
        return false
    end
    local magic, version = tvb(0, 4):le_uint(), tvb(4, 2):le_uint()
    return (magic == GREETING or magic == MAGIC) and version == VERSION
end

trunk:register_heuristic("tcp", function(tvb, pinfo, tree)
    if not begins_as_ours(tvb) then
        return false
    end
    trunk.dissector(tvb, pinfo, tree)
    pinfo.conversation = trunk
    return true
end)

local tcp_ports, tls_ports, port = DissectorTable.get("tcp.port"), DissectorTable.get("tls.port")
local function use_port(n)
    if port and port ~= 0 then
        tcp_ports:remove(port, trunk)
        tls_ports:remove(port, trunk)
    end
    port = n
    if port ~= 0 then
        tls_ports:add(port, trunk)
        tcp_ports:add(port, trunk)  -- after tls, which takes the port for itself
    end
end
function trunk.prefs_changed()
    if p.port ~= port then
        use_port(p.port)
    end
end
use_port(p.port)
