module uid-nri-plugin/tests

go 1.25

require (
	github.com/containerd/nri v0.8.0
	github.com/containerd/ttrpc v1.2.7
	golang.org/x/sys v0.39.0
	google.golang.org/protobuf v1.36.0
)

require (
	github.com/containerd/log v0.1.0 // indirect
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/golang/protobuf v1.5.3 // indirect
	github.com/sirupsen/logrus v1.9.3 // indirect
	golang.org/x/net v0.25.0 // indirect
	golang.org/x/text v0.15.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20230731190214-cbb8c96f2d6d // indirect
	google.golang.org/grpc v1.57.1 // indirect
	k8s.io/cri-api v0.25.3 // indirect
)

// The library does not build with the newer ones.
require github.com/opencontainers/runtime-spec v1.2.1 // indirect
