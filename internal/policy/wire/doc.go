// Package wire is the protocol between the policy hub and the nodes (policy.proto). It encodes
// a node's part (compile.Node) as resources, and decodes resources into a part.
//
// It owns the resources: what each contains, and its name, which is a hash of the content. So
// replicas use the same names without talking to each other, a node describes its state by a
// list of names, and the difference of two parts is the difference of two sets. Addresses are
// put together by a checksum (compile.Bucket), and other long lists are split at positions that
// depend only on the entries there (see cut), so that a new or deleted entry changes one
// resource.
//
// The package validates what it receives: Part.Change applies a change completely or not at
// all. The package must never open a connection, read a file, or use a clock.
//
// # Versions
//
// Hub and nodes may have different versions. Unknown fields and messages are ignored. A
// resource is sent and stored as the bytes of its message, and its name is a hash of these
// bytes. So a node keeps a resource that it does not understand, and uses it after an upgrade.
// Resources of unknown kinds have no effect on a node. A hub must not send what an older node
// would misunderstand; Hello has the node's format for this.
package wire

//go:generate sh -c "protoc --plugin=$DOLLAR(go tool -n protoc-gen-go) --plugin=$DOLLAR(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative policy.proto"
