package main

import (
	"os"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
)

func TestMain(m *testing.M) {
	os.Exit(steady.Main(m.Run, time.Second))
}
