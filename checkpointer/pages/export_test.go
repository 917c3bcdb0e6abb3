package pages

// For the tests that need more than this package, and so are in another one.

type GuestPlan = guestPlan

const RoleVariable = roleVariable

var (
	Roles         = roles
	StartGuest    = startGuest
	NewFakeSource = newFakeSource
)

type FakeSource = fakeSource

func (o Options) WithAfterRead(do func(changes int)) Options {
	o.afterRead = do
	return o
}
