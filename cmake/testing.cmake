# The environment of every test: ds_test_properties(NAME…).
#
# Tests run side by side, each with as many threads as there are processors. Threads that wait by
# spinning would take the processors from those that work.
set(DS_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
if(DS_SANITIZE MATCHES "thread")
    # Archer tells ThreadSanitizer what OpenMP's forks, barriers and locks order. oneDNN is not
    # instrumented: what its own instructions do cannot be seen, what it calls would look unordered.
    # Its libgomp symbols are answered by libomp, which comes first among the libraries.
    get_filename_component(openmp_folder ${OpenMP_omp_LIBRARY} DIRECTORY)
    find_library(DS_ARCHER archer HINTS ${openmp_folder} REQUIRED)
    list(APPEND DS_TEST_ENVIRONMENT OMP_TOOL_LIBRARIES=${DS_ARCHER}
         TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1)
endif()

if(DS_SANITIZE)
    set(DS_TEST_TIMEOUT 1800)
else()
    set(DS_TEST_TIMEOUT 600)
endif()

function(ds_test_properties)
    set_tests_properties(${ARGV} PROPERTIES
        TIMEOUT ${DS_TEST_TIMEOUT} SKIP_RETURN_CODE 77 ENVIRONMENT "${DS_TEST_ENVIRONMENT}")
endfunction()
