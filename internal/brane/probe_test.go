package brane

func probeMain() int { return 0 }
