// lifeboat-runtime is an OCI runtime for containerd's handler "lifeboat": runc,
// but containers of protected pods are restored from their checkpoints.
package main

import (
	"fmt"
	"os"

	"github.com/lifeboat-dev/lifeboat/runtime"
)

func main() {
	r, err := runtime.FromEnvironment()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-runtime:", err)
		os.Exit(1)
	}
	os.Exit(r.Run(os.Args[1:]))
}
