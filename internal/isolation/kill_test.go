package isolation_test

const childDir = "BERTH_ISOLATION_CHILD"

func live(string) {}
