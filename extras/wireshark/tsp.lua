-- Tunnel Setup Protocol (RFC 5572) for Wireshark and tshark: signalling over UDP and TCP port 3653, and the IPv6
-- packets that share the UDP port (v6udpv4).
--
--   tshark -X lua_script:extras/wireshark/tsp.lua -r laptop-eth0.pcap -Y tsp6
--   Wireshark: copy this file into the folder "Personal Lua Plugins" (Help, About Wireshark, Folders)
--
-- The filter name is tsp6, since Wireshark's tsp is the Time Synchronization Protocol.
--
--   tsp6.seq, tsp6.timestamp, tsp6.reversed      the header over UDP (section 4.4.1.2)
--   tsp6.command                                 VERSION, CAPABILITY, AUTHENTICATE, SASL, create, info, accept...
--   tsp6.status, tsp6.status_text                a broker's answer (appendix B)
--   tsp6.version, tsp6.mechanism, tsp6.tunnel    what is claimed, chosen, offered
--   tsp6.length, tsp6.xml                        Content-length, and the XML as text (section 4.7)
--   tsp6.type, tsp6.client_ipv4, tsp6.client_ipv6, tsp6.server_ipv4, tsp6.server_ipv6, tsp6.prefix
--   tsp6.again                                   the frame whose message was sent again
-- Credentials are shown as they are on the wire.

local PORT = 3653
local HEADER = 8

local tsp = Proto("tsp6", "Tunnel Setup Protocol")
local f = tsp.fields
f.seq = ProtoField.uint32("tsp6.seq", "Sequence number", base.DEC)
f.timestamp = ProtoField.uint32("tsp6.timestamp", "Timestamp", base.DEC)
f.reversed = ProtoField.bool("tsp6.reversed", "Sequence number in little-endian order")
f.again = ProtoField.framenum("tsp6.again", "Sent before in frame", base.NONE, frametype.RETRANS_PREV)
f.command = ProtoField.string("tsp6.command", "Command")
f.version = ProtoField.string("tsp6.version", "Version")
f.tunnel = ProtoField.string("tsp6.tunnel", "Tunnel type offered")
f.mechanism = ProtoField.string("tsp6.mechanism", "SASL mechanism")
f.sasl = ProtoField.string("tsp6.sasl", "SASL data, base64")
f.length = ProtoField.uint32("tsp6.length", "Content-length", base.DEC)
f.status = ProtoField.uint32("tsp6.status", "Status", base.DEC)
f.status_text = ProtoField.string("tsp6.status_text", "Status text")
f.xml = ProtoField.string("tsp6.xml", "XML")
f.type = ProtoField.string("tsp6.type", "Tunnel type")
f.lifetime = ProtoField.uint32("tsp6.lifetime", "Lifetime in minutes", base.DEC)
f.client_ipv4 = ProtoField.string("tsp6.client_ipv4", "Client's IPv4 address")
f.client_ipv6 = ProtoField.string("tsp6.client_ipv6", "Client's IPv6 address")
f.server_ipv4 = ProtoField.string("tsp6.server_ipv4", "Server's IPv4 address")
f.server_ipv6 = ProtoField.string("tsp6.server_ipv6", "Server's IPv6 address")
f.prefix = ProtoField.string("tsp6.prefix", "Prefix")

local malformed = ProtoExpert.new("tsp6.malformed", "Malformed message", expert.group.MALFORMED, expert.severity.WARN)
local again = ProtoExpert.new("tsp6.sent_again", "Sent again", expert.group.SEQUENCE, expert.severity.NOTE)
tsp.experts = { malformed, again }

local ipv6 = Dissector.get("ipv6")
local xml = Dissector.get("xml")
local data = Dissector.get("data")

local sent = {}     -- the first frame of every message over UDP, by its ends, number and text
local repeated = {} -- that frame, by the number of the frame that repeats it

function tsp.init()
    sent, repeated = {}, {}
end

-- The content of a buffer as text without NUL, which some clients send along.
local function text_of(range)
    return (range:raw():gsub("%z", " "))
end

local function trim(text)
    return (text:gsub("^[%s\b]+", ""):gsub("[%s\b]+$", ""))
end

-- Another dissector's turn; what it chokes on is said to be malformed.
local function hand_over(dissector, buffer, pinfo, tree, complaint)
    if not pcall(dissector.call, dissector, buffer, pinfo, tree) then
        tree:add(tsp, buffer(), "Tunnel Setup Protocol"):add_proto_expert_info(malformed, complaint)
    end
    return buffer:len()
end

local function addresses(text, element, tree, range)
    local inside = text:match("<" .. element .. ">(.-)</" .. element .. ">") or ""
    local direct = inside:gsub("<keepalive.-</keepalive>", ""):gsub("<router.-</router>", "")
    for kind, address in direct:gmatch('<address%s+type="(ipv[46])">%s*([^<%s]*)') do
        local field = f[element .. "_" .. kind]
        if field then tree:add(field, range, address) end
    end
    local length, prefix = inside:match('<prefix%s+length="(%d+)"%s*>([^<]*)')
    if length and prefix ~= "" then tree:add(f.prefix, range, trim(prefix) .. "/" .. length) end
end

-- A tunnel element; returns what it wants in a few words.
local function dissect_xml(range, pinfo, tree)
    local text = text_of(range)
    local opening = text:match("<tunnel([^>]*)>")
    tree:add(f.xml, range, trim(text))
    if not opening then
        tree:add_proto_expert_info(malformed, "No tunnel element")
        return "XML"
    end
    local action = (opening:match('action%s*=%s*"([^"]*)"') or "?"):lower()
    local kind = opening:match('type%s*=%s*"([^"]*)"')
    local lifetime = opening:match('lifetime%s*=%s*"(%d%d?%d?%d?%d?%d?%d?%d?%d?)"')
    tree:add(f.command, range, action)
    if kind then tree:add(f.type, range, kind:lower()) end
    if lifetime then tree:add(f.lifetime, range, tonumber(lifetime)) end
    addresses(text, "client", tree, range)
    addresses(text, "server", tree, range)
    if xml then hand_over(xml, range:tvb(), pinfo, tree, "Broken XML") end
    return action .. (kind and " " .. kind or "")
end

-- A status line and what may follow it; nil when there is none.
local function dissect_status(range, pinfo, tree)
    local text = text_of(range)
    local before, code = text:match("^(%s*)(%d%d%d%d?)%f[%D]")
    if not code then return nil end
    local line = trim(text:match("^%s*%d+([^\r\n<]*)"))
    tree:add(f.status, range(#before, #code), tonumber(code))
    tree:add(f.status_text, range, line)
    local said = code .. " " .. line
    local start = text:find("<", 1, true)
    if start then said = said .. ": " .. dissect_xml(range(start - 1), pinfo, tree) end
    return said
end

-- One message without its header over UDP; returns it in a few words.
local function dissect_message(range, pinfo, tree)
    local text = text_of(range)
    local line = trim(text)
    if line == "" then
        tree:add(f.command, range, "(empty)")
        return "(empty: go on)"
    end
    local version = line:match("^[Vv][Ee][Rr][Ss][Ii][Oo][Nn]%s*=%s*(%S+)")
    if version then
        tree:add(f.command, range, "VERSION")
        tree:add(f.version, range, version)
        return line
    end
    if line:upper():find("^CAPABILITY") then
        tree:add(f.command, range, "CAPABILITY")
        for name, value in line:upper():gmatch("(%a+)=(%S+)") do
            if name == "TUNNEL" then tree:add(f.tunnel, range, value) end
            if name == "AUTH" then tree:add(f.mechanism, range, value) end
        end
        return line
    end
    local mechanism = line:match("^[Aa][Uu][Tt][Hh][Ee][Nn][Tt][Ii][Cc][Aa][Tt][Ee]%s+(%S+)")
    if mechanism then
        tree:add(f.command, range, "AUTHENTICATE")
        tree:add(f.mechanism, range, mechanism)
        return line
    end
    local head, length = text:match("^(%s*[Cc]ontent%-[Ll]ength%s*:%s*(%d%d?%d?%d?%d?%d?)[^\r\n]*\r?\n?)")
    if head then
        tree:add(f.length, range(0, #head), tonumber(length))
        if #head >= range:len() then
            tree:add_proto_expert_info(malformed, "Nothing follows Content-length")
            return "Content-length " .. length
        end
        local content = range(#head)
        return dissect_status(content, pinfo, tree) or dissect_xml(content, pinfo, tree)
    end
    local status = dissect_status(range, pinfo, tree)
    if status then return status end
    tree:add(f.command, range, "SASL")
    tree:add(f.sasl, range, line)
    return "SASL data"
end

local function dissect_udp(buffer, pinfo, tree)
    local length = buffer:len()
    if length == 0 then return 0 end
    local first = bit.rshift(buffer(0, 1):uint(), 4)
    if first == 6 then
        return hand_over(ipv6, buffer, pinfo, tree, "A broken IPv6 packet")
    end
    local reversed = first ~= 15 and first ~= 4 and length >= HEADER and bit.rshift(buffer(3, 1):uint(), 4) == 15
    if length < HEADER or not (first == 15 or reversed) then return data:call(buffer, pinfo, tree) end

    pinfo.cols.protocol = "TSP"
    local subtree = tree:add(tsp, buffer())
    local word = reversed and buffer(0, 4):le_uint() or buffer(0, 4):uint()
    local number = bit.band(word, 0x0FFFFFFF)
    subtree:add(f.seq, buffer(0, 4), number)
    if reversed then subtree:add(f.reversed, buffer(0, 4), true) end
    subtree:add(f.timestamp, buffer(4, 4))
    local said, body = "(empty: go on)", ""
    if length > HEADER then
        body = buffer(HEADER):raw()
        said = dissect_message(buffer(HEADER), pinfo, subtree)
    else
        subtree:add(f.command, buffer(0, 0), "(empty)")
    end
    if not pinfo.visited then
        local ends = tostring(pinfo.src) .. pinfo.src_port .. tostring(pinfo.dst) .. pinfo.dst_port
        local key = ends .. " " .. number .. " " .. body
        if sent[key] then repeated[pinfo.number] = sent[key] else sent[key] = pinfo.number end
    end
    local earlier = repeated[pinfo.number]
    if earlier then
        subtree:add(f.again, earlier):set_generated()
        subtree:add_proto_expert_info(again)
        said = "again: " .. said
    end
    pinfo.cols.info = "#" .. number .. " " .. said
    return length
end

-- How many bytes a message at `offset` of a TCP stream has; nil when not all of it is there.
local function message_length(buffer, offset)
    local text = buffer(offset):raw()
    local head, length = text:match("^([Cc]ontent%-[Ll]ength%s*:%s*(%d%d?%d?%d?%d?%d?)[^\r\n]*\r?\n)")
    if head then
        local whole = #head + tonumber(length)
        return #text >= whole and whole or nil
    end
    local line = text:match("^[^\n]*\n")
    return line and #line or nil
end

local function dissect_tcp(buffer, pinfo, tree)
    local length, offset = buffer:len(), 0
    local words = {}
    while offset < length do
        local byte = buffer(offset, 1):uint()
        if byte == 0 or byte == 10 or byte == 13 or byte == 32 then
            offset = offset + 1 -- blanks, and the NUL that gogoc sends after each line
        else
            local needed = message_length(buffer, offset)
            if not needed then
                pinfo.desegment_offset = offset
                pinfo.desegment_len = DESEGMENT_ONE_MORE_SEGMENT
                break
            end
            local subtree = tree:add(tsp, buffer(offset, needed))
            words[#words + 1] = dissect_message(buffer(offset, needed), pinfo, subtree)
            offset = offset + needed
        end
    end
    if #words > 0 then
        pinfo.cols.protocol = "TSP"
        pinfo.cols.info = table.concat(words, "; ")
    end
    return length
end

function tsp.dissector(buffer, pinfo, tree)
    if pinfo.port_type == 2 then return dissect_tcp(buffer, pinfo, tree) end
    return dissect_udp(buffer, pinfo, tree)
end

DissectorTable.get("udp.port"):add(PORT, tsp)
DissectorTable.get("tcp.port"):add(PORT, tsp)
