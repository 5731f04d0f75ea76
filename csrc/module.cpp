// Makes the library importable as liif_fast._C; its operators register themselves when it is loaded (query.cpp).
#include <Python.h>

extern "C" PyObject* PyInit__C() {
    static PyModuleDef definition = {
        PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
    return PyModule_Create(&definition);
}
