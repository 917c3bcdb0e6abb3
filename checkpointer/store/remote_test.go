package store_test

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

func TestInspect(t *testing.T) {
	key := store.Key{Namespace: "shop", PodUID: "uid"}
	keys := storetest.NewKeys()
	open := func() *store.Store {
		s, err := store.Open(t.TempDir(), keys, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	own, other := open(), open()
	want, err := own.Seal(t.Context(), key, store.Generation{Epoch: 3, PodName: "cart-0"}, storetest.Tree{"file": "content"}.Write(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles, err := own.Files(key, want.Number)
	if err != nil {
		t.Fatal(err)
	}
	file, err := own.OpenFile(key, store.ManifestName(want.Number))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}

	got, files, err := other.Inspect(t.Context(), key, want.Number, content)
	if err != nil || got.PodName != want.PodName || got.Epoch != want.Epoch || got.Bytes != want.Bytes || got.NewBytes != want.NewBytes {
		t.Errorf("the generation is %+v, want %+v: %v", got, want, err)
	}
	if diff := cmp.Diff(wantFiles, files, protocmp.Transform()); diff != "" {
		t.Errorf("its files (-want +got):\n%s", diff)
	}
	var damaged *store.Damaged
	for name, inspect := range map[string]func() error{
		"another number": func() error { _, _, err := other.Inspect(t.Context(), key, want.Number+1, content); return err },
		"another pod": func() error {
			_, _, err := other.Inspect(t.Context(), store.Key{Namespace: "shop", PodUID: "other"}, want.Number, content)
			return err
		},
		"cut short": func() error {
			_, _, err := other.Inspect(t.Context(), key, want.Number, content[:len(content)-1])
			return err
		},
		"empty": func() error { _, _, err := other.Inspect(t.Context(), key, want.Number, nil); return err },
	} {
		if err := inspect(); !errors.As(err, &damaged) || !damaged.Permanent() {
			t.Errorf("%s: %v", name, err)
		}
	}
	keys.Forget(key.Namespace)
	if _, _, err := other.Inspect(t.Context(), key, want.Number, content); !errors.As(err, &damaged) || damaged.Permanent() {
		t.Errorf("without its key: %v", err)
	}
}
