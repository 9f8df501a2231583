//go:build tools

// The generators that buf.gen.yaml runs, so that go.mod holds their versions.
package main

import (
	_ "google.golang.org/grpc/cmd/protoc-gen-go-grpc"
	_ "google.golang.org/protobuf/cmd/protoc-gen-go"
)
