package httpapi

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the specification into docs")

const specification = "../../docs/reference/openapi.json"

// TestDocument: the specification in docs is the one that is served.
func TestDocument(t *testing.T) {
	document, err := Document(v1alpha1.SystemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(specification, document, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(specification)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(document, kept) {
		t.Error("docs/reference/openapi.json is out of date: go test ./watcher/httpapi -update")
	}
}
