package cnicall

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Request is the message Request of api/cni/v1/cni.proto.
type Request struct {
	ContainerID, NetNS, IfName, Args, Path string
	Config                                 []byte
}

// Reply is the message Reply.
type Reply struct {
	Result []byte
	// Error is nil on success.
	Error *Error
}

// Error is the message Error.
type Error struct {
	Code         uint32
	Msg, Details string
}

// The fields are numbered as in the file.
func (r Request) encode() (b []byte) {
	for i, s := range []string{r.ContainerID, r.NetNS, r.IfName, r.Args, r.Path, string(r.Config)} {
		b = protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType)
		b = protowire.AppendString(b, s)
	}
	return b
}

func decode(message []byte) (r Reply, err error) {
	err = fields(message, func(n protowire.Number, v []byte, _ uint64) error {
		switch n {
		case 1:
			r.Result = v
		case 2:
			r.Error = &Error{}
			return fields(v, func(n protowire.Number, v []byte, number uint64) error {
				switch n {
				case 1:
					r.Error.Code = uint32(number)
				case 2:
					r.Error.Msg = string(v)
				case 3:
					r.Error.Details = string(v)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return Reply{}, fmt.Errorf("the agent's answer: %w", err)
	}
	return r, nil
}

// fields gives each field to take: bytes or a number. Fields of other types, which a
// newer agent might send, are passed over.
func fields(b []byte, take func(n protowire.Number, v []byte, number uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var v []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			v, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := take(n, v, number); err != nil {
			return err
		}
	}
	return nil
}
