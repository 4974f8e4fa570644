package cniv1

//go:generate sh -ec "mkdir -p ../../../bin/tools && GOBIN=$(cd ../../../bin/tools && pwd) go install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc && PATH=$(cd ../../../bin/tools && pwd):$PATH protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative cni.proto"
