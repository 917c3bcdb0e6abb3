package storetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

func rotation(t *testing.T, keys *Keys, f Fixture) {
	one, two := example(1), example(1)
	two["more"] = "more"
	first := seal(t, f.Store, pod, one)
	keys.Rotate(pod.Namespace)
	second := seal(t, f.Store, pod, two)
	if second.NewBytes < first.NewBytes {
		t.Errorf("the first generation under a new key added %d bytes, the one before it %d: it shares chunks of the old key",
			second.NewBytes, first.NewBytes)
	}
	third := seal(t, f.Store, pod, two)
	if third.NewBytes > second.NewBytes/10 {
		t.Errorf("an unchanged generation under the new key added %d bytes", third.NewBytes)
	}
	s := f.Reopen(t)
	wantTree(t, s, pod, 1, one)
	wantTree(t, s, pod, 2, two)
}

func wrongKey(t *testing.T, keys *Keys, f Fixture) {
	tree := example(1)
	seal(t, f.Store, pod, tree)
	keys.Forget(pod.Namespace)
	s := f.Reopen(t)
	wantDamaged(t, s, 1)
	if list, err := s.List(pod); err != nil || len(list) != 0 {
		t.Errorf("without its key a generation is listed: %v, %v", list, err)
	}
	// A key may come back: what was written with it is not thrown away.
	before := diskUse(t, f.Dir)
	check(t, s.Retain(pod, store.Retention{Count: 1}))
	if after := diskUse(t, f.Dir); after != before {
		t.Errorf("%d bytes that only lack their key were removed", before-after)
	}
}

func secrecy(t *testing.T, _ *Keys, f Fixture) {
	const secret = "correct horse battery staple"
	tree := Tree{"images/" + secret: strings.Repeat(secret+" ", 1000), "rest": secret}
	seal(t, f.Store, pod, tree)
	seal(t, f.Store, store.Key{Namespace: "bank", PodUID: "x"}, tree)
	for _, name := range files(t, f.Dir) {
		full := filepath.Join(f.Dir, name)
		content, err := os.ReadFile(full)
		check(t, err)
		if bytes.Contains(content, []byte(secret[:12])) || bytes.Contains(content, []byte("images")) {
			t.Errorf("%s shows what was sealed", name)
		}
		info, err := os.Stat(full)
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
		folder, err := os.Stat(filepath.Dir(full))
		check(t, err)
		if filepath.Dir(name) != "." && folder.Mode().Perm() != 0o700 {
			t.Errorf("the folder of %s has mode %o", name, folder.Mode().Perm())
		}
	}
}

// wantDamaged materializes a generation that cannot be restored.
func wantDamaged(t testing.TB, s Store, number int64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	err := s.Materialize(context.Background(), pod, number, dir)
	var damaged *store.Damaged
	if !errors.As(err, &damaged) {
		t.Fatalf("generation %d: want Damaged, got %v", number, err)
	}
	if damaged.Generation != number || damaged.File == "" || damaged.Detail == "" {
		t.Errorf("Damaged says too little: %+v", damaged)
	}
	wantNothing(t, dir)
}

// stored lists the files that generations are made of.
func stored(t testing.TB, dir string) []string {
	var names []string
	for _, name := range files(t, dir) {
		if strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".man") {
			names = append(names, name)
		}
	}
	return names
}

func missingFiles(t *testing.T, _ *Keys, f Fixture) {
	seal(t, f.Store, pod, example(1))
	for _, name := range stored(t, f.Dir) {
		if strings.HasSuffix(name, ".man") {
			continue // without its manifest a generation is not there at all
		}
		full := filepath.Join(f.Dir, name)
		content, err := os.ReadFile(full)
		check(t, err)
		check(t, os.Remove(full))
		wantDamaged(t, f.Store, 1)
		if list, err := f.Store.List(pod); err != nil || len(list) != 0 {
			t.Errorf("a generation without %s is listed: %v, %v", name, list, err)
		}
		check(t, os.WriteFile(full, content[:len(content)-1], 0o600))
		wantDamaged(t, f.Store, 1)
		check(t, os.WriteFile(full, content, 0o600))
	}
	wantTree(t, f.Store, pod, 1, example(1))
}

// damage alters, cuts and swaps parts of files, and wants each generation to
// come back as it was or not at all.
func damage(t *testing.T, _ *Keys, f Fixture) {
	trees := map[int64]Tree{1: smallExample("one"), 2: smallExample("two"), 3: smallExample("three")}
	for number := range int64(len(trees)) {
		seal(t, f.Store, pod, trees[number+1])
	}
	r := random(t)
	names := stored(t, f.Dir)
	for _, name := range names {
		full := filepath.Join(f.Dir, name)
		original, err := os.ReadFile(full)
		check(t, err)
		write := func(content []byte) { check(t, os.WriteFile(full, content, 0o600)) }

		positions := make([]int, 0, 200)
		for i := range min(100, len(original)) { // the header, in any case
			positions = append(positions, i)
		}
		for range 100 {
			positions = append(positions, r.IntN(len(original)))
		}
		for _, position := range positions {
			altered := bytes.Clone(original)
			altered[position] ^= byte(1 + r.IntN(255))
			write(altered)
			if hurt := wantRightOrDamaged(t, f.Store, trees); hurt == 0 {
				t.Errorf("nobody missed byte %d of %s", position, name)
			}
		}
		for range 20 {
			write(original[:r.IntN(len(original))])
			if hurt := wantRightOrDamaged(t, f.Store, trees); hurt == 0 {
				t.Errorf("nobody missed the end of %s", name)
			}
		}
		for _, other := range names { // a file in the place of another
			content, err := os.ReadFile(filepath.Join(f.Dir, other))
			check(t, err)
			write(content)
			if hurt := wantRightOrDamaged(t, f.Store, trees); other != name && hurt == 0 {
				t.Errorf("%s passes for %s", other, name)
			}
		}
		write(original)
		if hurt := wantRightOrDamaged(t, f.Store, trees); hurt != 0 {
			t.Fatalf("with %s as it was, %d generations are damaged", name, hurt)
		}
	}
}

func smallExample(seed string) Tree {
	pagemap, pages := Images(1, Memory{Address: 0x10000, Data: Pages(7, 3)},
		Memory{Address: 0x80000, Data: []byte(strings.Repeat(seed+" page", PageSize)[:2*PageSize])})
	return Tree{"c/images/pagemap-1.img": pagemap, "c/images/pages-1.img": pages, "c/rootfs.tar": seed}
}

// wantRightOrDamaged materializes every generation, and returns how many are damaged.
func wantRightOrDamaged(t testing.TB, s Store, trees map[int64]Tree) (hurt int) {
	t.Helper()
	scratch := t.TempDir()
	for number, want := range trees {
		dir := filepath.Join(scratch, "restored")
		err := s.Materialize(context.Background(), pod, number, dir)
		var damaged *store.Damaged
		switch {
		case errors.As(err, &damaged):
			hurt++
			wantNothing(t, dir)
		case err != nil:
			t.Fatalf("generation %d: %v", number, err)
		case !same(ReadTree(t, dir), want.withFolders()):
			t.Fatalf("generation %d came back with wrong bytes", number)
		}
		check(t, os.RemoveAll(dir))
	}
	return hurt
}
