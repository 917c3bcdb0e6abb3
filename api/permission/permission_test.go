package permission

import "testing"

func TestDefaultLeavesRoomForReads(t *testing.T) {
	if Default.ReadEvery*3 > Default.Period {
		t.Errorf("one lost read of every %s must not end a permission of %s", Default.ReadEvery, Default.Period)
	}
}

func TestDefaultIsSound(t *testing.T) {
	if !Default.Sound() {
		t.Errorf("%+v", Default)
	}
}
