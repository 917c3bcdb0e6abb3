package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// FuzzRequest reads what the checkpointer reads. What it understands of a request
// is what another one would.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"create":{"id":"a","name":"cart","namespace":"shop","podName":"cart-0","podUID":"u","sandboxID":"s","bundle":"/run/a"}}`))
	f.Add([]byte(`{"report":{"id":"a","restored":true,"seconds":1e300}}`))
	f.Add([]byte(`{"create":null,"report":{},"unknown":[[[]]]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) { again[Request](t, data) })
}

// again wants a message to be the same after it was passed on.
func again[M any](t *testing.T, data []byte) {
	var first, second M
	if json.NewDecoder(bytes.NewReader(data)).Decode(&first) != nil {
		return
	}
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsRune(text, '\n') {
		t.Errorf("a message is not one line: %s", text)
	}
	if err := json.Unmarshal(text, &second); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, second) {
		t.Errorf("%+v was passed on as %+v", first, second)
	}
}

// FuzzResponse lets a checkpointer answer anything.
func FuzzResponse(f *testing.F) {
	socket := filepath.Join(f.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	defer listener.Close()
	answers := make(chan []byte, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var req Request
			if json.NewDecoder(conn).Decode(&req) == nil {
				_, _ = conn.Write(<-answers)
			}
			conn.Close()
		}
	}()
	f.Add([]byte(`{"create":{"restore":true,"imagesPath":"/a","workPath":"/b","lazy":true,"generation":7}}`))
	f.Add([]byte(`{"error":"the request is empty"}`))
	f.Add([]byte(`{"create":{"refuse":"it runs elsewhere"}} {"error":"trailing"}`))
	f.Add([]byte(`{"create":{"generation":1e400}}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		answers <- data
		got, err := Do(ctx, socket, Request{Create: &CreateRequest{Bundle: "/run/a"}})
		var want Response
		wantErr := json.NewDecoder(bytes.NewReader(data)).Decode(&want)
		switch {
		case ctx.Err() != nil:
			t.Error("an answer that came is waited for")
		case err == nil && (wantErr != nil || want.Error != ""):
			t.Errorf("%q is taken for an answer", data)
		case err == nil && !reflect.DeepEqual(got, want):
			t.Errorf("%q is taken for %+v", data, got)
		case err != nil && wantErr == nil && want.Error == "":
			t.Errorf("%q is refused: %v", data, err)
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(data)) > 0:
			t.Errorf("%q is taken for no answer", data)
		}
	})
}
