package sctp

import (
	"encoding/binary"
	"hash/crc32"
)

// Types of chunks (RFC 9260, 3.2).
const (
	chunkData             = 0
	chunkInit             = 1
	chunkInitAck          = 2
	chunkSack             = 3
	chunkHeartbeat        = 4
	chunkHeartbeatAck     = 5
	chunkAbort            = 6
	chunkShutdown         = 7
	chunkShutdownAck      = 8
	chunkCookieEcho       = 10
	chunkCookieAck        = 11
	chunkShutdownComplete = 14
)

const (
	// headerSize and chunkHeader are the sizes of the common header and of a chunk's.
	headerSize, chunkHeader = 12, 4
	// paramCookie is the parameter of INIT ACK that COOKIE ECHO returns.
	paramCookie = 7
	// wholeMessage are the flags of DATA whose message is in one chunk: beginning and end.
	wholeMessage = 3
	// window is the receive window that is told to the other end.
	window = 64 << 10
)

// packet is one packet with one or several chunks.
type packet struct {
	from, to uint16 // ports
	tag      uint32
	chunks   []chunk
}

type chunk struct {
	kind, flags byte
	value       []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is computed with zeros in its own place, and written with the lowest byte first (RFC
// 9260, appendix A).
func checksum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:8])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, b[headerSize:])
}

func (p *packet) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.from)
	b = binary.BigEndian.AppendUint16(b, p.to)
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = append(b, 0, 0, 0, 0)
	for _, c := range p.chunks {
		b = append(b, c.kind, c.flags)
		b = binary.BigEndian.AppendUint16(b, uint16(chunkHeader+len(c.value)))
		b = append(b, c.value...)
		b = append(b, make([]byte, padding(len(c.value)))...)
	}
	binary.LittleEndian.PutUint32(b[8:], checksum(b))
	return b
}

// padding is what fills a chunk or parameter up to a multiple of four bytes.
func padding(n int) int { return (4 - n%4) % 4 }

// decode returns false for what is no packet of SCTP.
func decode(b []byte) (*packet, bool) {
	if len(b) < headerSize+chunkHeader || binary.LittleEndian.Uint32(b[8:]) != checksum(b) {
		return nil, false
	}
	p := &packet{from: binary.BigEndian.Uint16(b), to: binary.BigEndian.Uint16(b[2:]), tag: binary.BigEndian.Uint32(b[4:])}
	for b = b[headerSize:]; len(b) >= chunkHeader; {
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < chunkHeader || size > len(b) {
			return nil, false
		}
		p.chunks = append(p.chunks, chunk{kind: b[0], flags: b[1], value: b[chunkHeader:size]})
		b = b[min(size+padding(size), len(b)):]
	}
	return p, true
}

// start is the content of INIT and INIT ACK.
type start struct {
	tag, tsn uint32
	cookie   []byte // of INIT ACK
}

func (s start) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, s.tag)
	b = binary.BigEndian.AppendUint32(b, window)
	b = append(b, 0, 1, 0, 1) // one stream each way
	b = binary.BigEndian.AppendUint32(b, s.tsn)
	if s.cookie != nil {
		b = binary.BigEndian.AppendUint16(b, paramCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(s.cookie)))
		b = append(b, s.cookie...)
		b = append(b, make([]byte, padding(len(s.cookie)))...)
	}
	return b
}

func decodeStart(b []byte) (start, bool) {
	if len(b) < 16 {
		return start{}, false
	}
	s := start{tag: binary.BigEndian.Uint32(b), tsn: binary.BigEndian.Uint32(b[12:])}
	for b = b[16:]; len(b) >= 4; {
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < 4 || size > len(b) {
			return start{}, false
		}
		if binary.BigEndian.Uint16(b) == paramCookie {
			s.cookie = b[4:size]
		}
		b = b[min(size+padding(size), len(b)):]
	}
	return s, s.tag != 0
}

// encodeData is a message on stream 0.
func encodeData(tsn uint32, number uint16, message []byte) chunk {
	b := binary.BigEndian.AppendUint32(nil, tsn)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, number)
	b = append(b, 0, 0, 0, 0)
	return chunk{kind: chunkData, flags: wholeMessage, value: append(b, message...)}
}

func encodeSack(upTo uint32) chunk {
	b := binary.BigEndian.AppendUint32(nil, upTo)
	b = binary.BigEndian.AppendUint32(b, window)
	return chunk{kind: chunkSack, value: append(b, 0, 0, 0, 0)} // no gaps, no duplicates
}
