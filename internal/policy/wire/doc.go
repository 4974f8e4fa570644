// Package wire is what the policy hub and nodes say to each other (policy.proto), and how a
// node's part (compile.Node) becomes resources and is put together from them.
//
// It owns the resources: what is in one, and its name, which is a hash of its content. So
// replicas agree without talking, a node says what it has by a list of names, and a difference of
// two parts is a difference of two sets. A part's long lists are cut where the entries say
// (see cut), so that an entry that comes or goes changes one resource, whatever was before.
//
// What comes from outside is checked here: Part.Change takes all of a change or nothing. The
// package must never open a connection, read a file, or know a clock.
//
// # Versions
//
// Hub and nodes may be of different versions. Fields and messages that one does not know are
// passed over. A resource travels and is kept as the bytes of its message, and its name is a hash of
// these, so a node keeps what it does not understand, and does when it is newer. A kind
// of resource that a node does not know has no effect on it: a hub must not send what older nodes would
// misunderstand, for which Hello says the node's format.
package wire

//go:generate sh -c "protoc --plugin=$DOLLAR(go tool -n protoc-gen-go) --plugin=$DOLLAR(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative policy.proto"
