// What is in this picture? One call to a graftd device.
//
//	go run . [-target 127.0.0.1:7411] PICTURE
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	graftv1 "example.com/graftd/gen/graft/v1"
)

func main() {
	target := flag.String("target", "127.0.0.1:7411", "address of the device")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: go run . [-target ADDRESS] PICTURE")
	}
	picture, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}

	connection, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	answer, err := graftv1.NewInferenceServiceClient(connection).Predict(ctx, &graftv1.PredictRequest{
		Image: &graftv1.Image{Source: &graftv1.Image_Encoded{Encoded: picture}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range answer.Predictions {
		fmt.Printf("%6.2f%%  %4d  %s\n", 100*p.Probability, p.Index, p.Label)
	}
}
