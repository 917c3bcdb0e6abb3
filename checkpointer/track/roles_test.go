package track

func callsRole()   {}
func threadsRole() {}
func memoryRole()  {}
