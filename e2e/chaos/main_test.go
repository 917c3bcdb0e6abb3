package main

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(steady.Main(m.Run, time.Second))
}
